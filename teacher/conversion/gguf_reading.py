"""Read the head of a GGUF file once, whoever asks for it.

The ``gguf`` package makes some objects of every token, type, score and merge: 1.5 s of
the processor for 60,000 of them, of which Gemma 3's 262,144 tokens have thirteen times
as many. transformers has it done for the tokenizer, for the config and for the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os.path import samefile
from pathlib import Path
from typing import Any

import numpy as np

from align.support import extras


@contextmanager
def read_once(path: Path) -> Iterator[None]:
    """While the block lasts, whoever reads a file by ``gguf.GGUFReader`` gets the same
    reader.

    Args:
        path: the file, which nobody writes meanwhile.

    Raises:
        ValueError: the ``gguf`` package is missing.
    """
    gguf = extras.gguf(f"converting {path.name}")
    whole, kept = gguf.GGUFReader, list[Any]()

    def reader(file: Any, *rest: Any, **options: Any) -> Any:
        if rest or options or not samefile(file, path):
            return whole(file, *rest, **options)
        if not kept:
            kept.append(_quick(whole)(file))
        return kept[0]

    gguf.GGUFReader = reader
    try:
        yield
    finally:
        gguf.GGUFReader = whole


def _quick(whole: type) -> type:
    class Reader(whole):  # type: ignore[misc, valid-type]
        """Cuts a plain array, since a cut of a memory map takes thrice as long."""

        @property
        def data(self) -> Any:
            """The file's bytes."""
            return self._plain

        @data.setter
        def data(self, mapped: Any) -> None:
            self._plain = mapped.view(np.ndarray)

    return Reader
