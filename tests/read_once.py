"""Weights of tiny models that are read by the first and copied for the others."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch


@contextmanager
def weights_read_once(models: Path) -> Iterator[None]:
    """A small run reads its models six times, a fifth of all that it takes.

    Args:
        models: the folder of those that nobody changes, each in a folder by its name.
    """
    from teacher.loading import models as loading

    read, kept = loading._load_weights, dict[str, Any]()

    def load(name: str, source: str, kind: str, options: dict[str, Any]) -> Any:
        if Path(source).parent != models:
            return read(name, source, kind, options)
        key = repr((source, kind, sorted(options.items())))
        if key not in kept:
            kept[key] = read(name, source, kind, options)
        return copy.deepcopy(kept[key])

    with patch.object(loading, "_load_weights", load):
        yield
