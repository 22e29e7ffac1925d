"""Rows written as comma- or tab-separated values, the first line naming the fields."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from align.bounds.row_size import most_row_chars, refuse_long_row
from align.errors import InputError
from align.text.files import text_blocks
from align.text.records import Row

_LINE_END = re.compile(r"\r\n|\n|\r")


def rows_of_table(path: Path, delimiter: str) -> Iterator[Row]:
    """The rows, numbered by the line on which each begins.

    Args:
        path: of the file.
        delimiter: between values.

    Raises:
        InputError: quotes do not match, a row has not as many values as there are
            fields, or the first line names a field twice; names the line.
    """
    # The limit belongs to the whole process and is only ever raised here.
    csv.field_size_limit(max(csv.field_size_limit(), most_row_chars()))
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    fields: list[str] | None = None
    begin = 1
    while True:
        where = f"{path}, line {begin}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{where}: {error}; put values that hold quotes, line ends or "
                f"{delimiter!r} in quotes and double the quotes in them, or save the "
                "rows as .jsonl"
            ) from error
        if fields is None:
            fields = _fields(row, delimiter, where)
        elif row and len(row) != len(fields):
            advice = (
                "write all of them, empty ones too"
                if len(row) < len(fields)
                else f"put values that hold {delimiter!r} in quotes"
            )
            raise InputError(
                f"{where}: {len(row)} values for {len(fields)} fields; {advice}, or "
                "save the rows as .jsonl"
            )
        elif row:
            yield begin, where, dict(zip(fields, row, strict=True))
        begin = reader.line_num + 1


def _fields(row: list[str], delimiter: str, where: str) -> list[str]:
    repeated_names = sorted({name for name in row if row.count(name) > 1})
    if repeated_names:
        raise InputError(
            f"{where}: field {repeated_names[0]!r} is named twice; name it once"
        )
    other_marks = [
        mark for mark in ",;\t" if mark != delimiter and mark in "".join(row)
    ]
    if len(row) == 1 and other_marks:
        raise InputError(
            f"{where}: no {delimiter!r} in {row[0]!r:.60}, but {other_marks[0]!r}; "
            ".csv is separated by commas, .tsv by tabs"
        )
    return row


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends: ``\\r\\n``, ``\\n`` or ``\\r``."""
    parts: list[str] = []
    number = 0
    for block in text_blocks(path):
        if parts and parts[-1].endswith("\r"):  # perhaps half of a line end
            block, parts = "".join(parts) + block, []
        at = 0
        for line_end in _LINE_END.finditer(block):
            end = line_end.end()
            if end == len(block) and block.endswith("\r"):
                break
            yield "".join([*parts, block[at:end]])
            number += 1
            at, parts = end, []
        parts.append(block[at:])
        refuse_long_row(sum(map(len, parts)), f"{path}, after line {number}")
    if any(parts):
        yield "".join(parts)
