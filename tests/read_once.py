"""Weights of tiny models that are read by the first and copied for the others."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor


@contextmanager
def weights_read_once(models: Path) -> Iterator[None]:
    """A small run reads its models six times, a fifth of all that it takes.

    Args:
        models: the folder of those that nobody changes, each in a folder by its name.
    """
    from teacher.loading import models as loading

    read, kept = loading._load_weights, dict[str, Callable[[], Any]]()

    def load(name: str, source: str, kind: str, options: dict[str, Any]) -> Any:
        if Path(source).parent != models:
            return read(name, source, kind, options)
        key = repr((source, kind, sorted(options.items())))
        if key not in kept:
            kept[key] = copies_of(read(name, source, kind, options))
        return kept[key]()

    with patch.object(loading, "_load_weights", load):
        yield


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
