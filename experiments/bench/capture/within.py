"""How much of a captured forward is capture's, clocked from inside the same call.

Two forwards of a busy machine differ by more than capture takes; its part of one does
not depend on the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from teacher.capture.forward import Forward
from teacher.capture.recording import Recording


def work_within(candidate: Callable[[], object], rounds: int) -> float:
    """A captured forward in units of the library's part of it.

    The library's part is the time in the model's forward but for what is done each time
    an attention layer tells its keys and values; norms and embeddings are noted by
    reference, in no time.

    Args:
        candidate: calls a capture once, to its end.
        rounds: calls, of which the median counts.

    Returns:
        >= 1.
    """
    candidate()
    ratios = []
    for _ in range(rounds):
        with _clocked() as spent:
            begin = time.process_time()
            candidate()
            whole = time.process_time() - begin
        library = spent["forward"] - spent["told"]
        ratios.append(whole / library)
    return statistics.median(ratios)


@contextmanager
def _clocked() -> Iterator[dict[str, float]]:
    """Adds up the time in forwards, and in what is told from within them."""
    spent = {"forward": 0.0, "told": 0.0}
    places = [
        (Forward, "__call__", "forward"),
        (Recording, "before", "told"),
        (Recording, "visit", "told"),
    ]
    originals: list[tuple[Any, str, Any]] = []
    for cls, name, kind in places:
        original = getattr(cls, name)
        originals.append((cls, name, original))
        setattr(cls, name, _timed(original, spent, kind))
    try:
        yield spent
    finally:
        for cls, name, original in originals:
            setattr(cls, name, original)


def _timed(original: Any, spent: dict[str, float], kind: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return original(*args, **kwargs)
        finally:
            spent[kind] += time.process_time() - begin

    return call
