"""Rows written as JSON: one object a line, or an array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.bounds.row_size import refuse_long_row
from align.errors import InputError
from align.text.files import numbered_lines, text_blocks
from align.text.records import Row

_BLANKS = " \t\r\n"
_CONSTANT = 16
"""No escape or constant of JSON is longer, so that an error farther from the end of
what is held is no matter of how much is held."""
_OPEN = "the array does not end: the file is cut short"


def rows_of_lines(path: Path) -> Iterator[Row]:
    """The object on each line, numbered as the lines are; blank lines are passed over.

    Raises:
        InputError: a line is not JSON, or an object names a key twice; names it.
    """
    for number, line in numbered_lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            yield number, where, _parsed(line, where)


def rows_of_json(path: Path) -> Iterator[Row]:
    """The objects of one array, or those that stand one after the other, from 0.

    One row is held at a time, and the block it ends in.

    Raises:
        InputError: it is not JSON, or an object names a key twice; names the line.
    """
    text = _Held(path)
    is_array = text.mark() == "["
    if is_array:
        text.take()
    number = 0
    while True:
        mark = text.mark()
        if not mark and not is_array:
            return
        if is_array and mark == "]":
            text.take()
            if text.mark():
                raise text.error("text follows the array's end")
            return
        if is_array and number:
            if mark != ",":
                raise text.error("Expecting ',' delimiter" if mark else _OPEN)
            text.take()
            text.mark()
        where = f"{path}, row {number} (line {text.line})"
        yield number, where, text.value(where)
        number += 1


class _Held:
    """The part of a JSON text that is being read."""

    def __init__(self, path: Path) -> None:
        self._path, self._blocks = path, text_blocks(path)
        self._text, self._at, self._ended = "", 0, False
        self.line = 1

    def mark(self) -> str:
        """The next character that is no blank, empty at the end."""
        while True:
            rest = self._text[self._at : self._at + 1]
            if rest and rest not in _BLANKS:
                return rest
            if rest:
                # Not lstrip: that would copy all that is held for every row
                self.take()
            elif not self._grow():
                return ""

    def take(self, end: int | None = None) -> None:
        """Leave what is before ``end``, or one character, behind."""
        end = self._at + 1 if end is None else end
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def value(self, where: str) -> Any:
        """The value that begins here, of whatever size.

        Where it does not end in what is held, that is doubled, so that the work grows
        as the text does.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                open_end = error.pos >= len(self._text) - _CONSTANT
                if not (open_end or error.msg.startswith("Unterminated string")):
                    raise self.error(error.msg, error.pos) from error
                refuse_long_row(len(self._text) - self._at, where)
                if not self._grow():
                    raise self.error(error.msg, error.pos) from error
            except (RecursionError, ValueError) as error:
                raise _unreadable(where, error) from error
            else:
                self.take(end)
                return value

    def error(self, fault: str, place: int | None = None) -> InputError:
        """What is wrong, with the line and what stands there."""
        place = self._at if place is None else place
        line = self.line + self._text.count("\n", self._at, place)
        near = self._text[max(0, place - 20) : place + 20]
        return InputError(
            f"{self._path}, line {line}: not JSON ({_whole(fault)}, near {near!r}); "
            "give an array of objects, or one object a line"
        )

    def _grow(self) -> bool:
        """Hold twice as much of the text; False at its end."""
        kept = self._text[self._at :]
        parts, size = [kept], 0
        for block in self._blocks:
            parts.append(block)
            size += len(block)
            if size >= len(kept):
                break
        self._text, self._at = "".join(parts), 0
        return size > 0


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise InputError(
            f"{repeated!r:.60} is named twice in one object, and one of its values "
            "would be lost; name it once"
        )
    return read


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _parsed(line: str, where: str) -> Any:
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({_whole(error.msg)} at column {error.colno}); give "
            "one object a line, or let the name of an array end in .json"
        ) from error
    except (RecursionError, ValueError) as error:
        raise _unreadable(where, error) from error


def _whole(fault: str) -> str:
    """A parser's words without the "at" that its own place would follow."""
    return fault.removesuffix(" at")


def _unreadable(where: str, error: Exception) -> InputError:
    if isinstance(error, RecursionError):
        return InputError(
            f"{where}: lists and objects lie too deep in each other to be read; leave "
            "the row out"
        )
    if isinstance(error, InputError):
        return InputError(f"{where}: {error}")
    return InputError(
        f"{where}: a number has too many digits to be read; write it as a string, or "
        "leave the row out"
    )
