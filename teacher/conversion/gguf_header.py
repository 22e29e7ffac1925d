"""See that a GGUF file holds as much as its header counts, before it is believed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from align.bounds.regular_file import opened
from align.errors import InputError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value of each type that has a fixed size."""
_TEXT, _ARRAY = 8, 9
_MOST_DIMS = 8


def check_gguf(path: Path) -> None:
    """Walk the header of a file.

    Raises:
        InputError: it is no GGUF file, or it counts more than it holds.

    Source:
        GGUF specification, versions 2 and 3: counts and lengths are 64 bits wide.
    """
    with opened(path) as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise InputError(
                f"{path} is no GGUF file (it begins with {magic!r}); give one, or the "
                "folder in which config.json and the weights lie"
            )
        try:
            _Walk(file, path.stat().st_size).header()
        except (ValueError, struct.error) as error:
            raise InputError(
                f"{path} is damaged at byte {file.tell():,} ({error}); download or "
                "copy it again"
            ) from None


class _Walk:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._order = "<"

    def header(self) -> None:
        """Everything up to the tensors' data."""
        version = self._number("I")
        if not version & 0xFFFF:  # written by a machine of the other byte order
            self._order = ">"
        tensors, pairs = self._number("Q"), self._number("Q")
        self._fits(tensors, 24, "tensors")
        self._fits(pairs, 13, "keys")
        for _ in range(pairs):
            self._text()
            self._value(self._number("I"))
        for _ in range(tensors):
            self._text()
            dims = self._number("I")
            if dims > _MOST_DIMS:
                raise ValueError(f"a tensor of {dims:,} dimensions")
            self._skip(8 * dims + 12)

    def _value(self, kind: int) -> None:
        if kind == _TEXT:
            self._text()
        elif kind == _ARRAY:
            inside, count = self._number("I"), self._number("Q")
            if inside == _ARRAY:
                raise ValueError("an array of arrays")
            self._fits(count, _SIZES.get(inside, 8), "values")
            if inside == _TEXT:
                for _ in range(count):
                    self._text()
            else:
                self._skip(count * self._size_of(inside))
        else:
            self._skip(self._size_of(kind))

    def _size_of(self, kind: int) -> int:
        if kind not in _SIZES:
            raise ValueError(f"a value of the unknown type {kind}")
        return _SIZES[kind]

    def _text(self) -> None:
        self._skip(self._number("Q"))

    def _number(self, form: str) -> int:
        size = struct.calcsize(form)
        return int(struct.unpack(self._order + form, self._file.read(size))[0])

    def _skip(self, size: int) -> None:
        self._fits(size, 1, "bytes")
        self._file.seek(size, 1)

    def _fits(self, count: int, size: int, what: str) -> None:
        left = self._size - self._file.tell()
        if count * size > left:
            raise ValueError(f"{count:,} {what} in the {left:,} bytes that follow")
