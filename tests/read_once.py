"""Tiny models that are read by the first and copied for the others."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor


@contextmanager
def weights_read_once(models: Path) -> Iterator[None]:
    """A small run reads its models six times, with tokenizers and configs a quarter of
    all that it takes.

    Args:
        models: the folder of those that nobody changes, each in a folder by its name.
    """
    from teacher.loading import models as loading

    with ExitStack() as patches:
        for part in ("_load_weights", "load_tokenizer", "load_config"):
            once = read_once(getattr(loading, part), models)
            patches.enter_context(patch.object(loading, part, once))
        yield


def read_once(read: Callable[..., Any], models: Path) -> Callable[..., Any]:
    """Reads a part of each of these models once, and then gives copies.

    Args:
        read: takes a name, a folder and what else decides.
        models: as in :func:`weights_read_once`.
    """
    kept: dict[str, Callable[[], Any]] = {}

    def given(name: str, source: str, *more: Any) -> Any:
        if Path(source).parent != models:
            return read(name, source, *more)
        decides = [sorted(m.items()) if isinstance(m, dict) else m for m in more]
        key = repr((source, decides))
        if key not in kept:
            kept[key] = copies_of(read(name, source, *more))
        return kept[key]()

    return given


def copies_of(thing: Any) -> Callable[[], Any]:
    """Makes copies as ``copy.deepcopy`` does, in a fifth of its time: what is no tensor
    is pickled once."""
    tensors: list[Tensor] = []
    written = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, part: Any) -> int | None:
            if not isinstance(part, Tensor):
                return None
            tensors.append(part)
            return len(tensors) - 1

    Pickler(written, protocol=pickle.HIGHEST_PROTOCOL).dump(thing)

    def made() -> Any:
        memo: dict[int, Any] = {}

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, place: int) -> Tensor:
                return copy.deepcopy(tensors[place], memo)

        return Unpickler(io.BytesIO(written.getvalue())).load()

    return made
