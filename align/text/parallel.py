"""Parallel text: the same sentences in two languages, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from textwrap import shorten
from typing import Any

from align.errors import InputError
from align.text.chat_rows import RowError
from align.text.files import kind_of, numbered_lines
from align.text.json_rows import rows_of_json, rows_of_lines

Line = tuple[str, str, str]
"""Place for errors, source, target; either may be empty."""


def pairs_of_lines(source: Path, target: Path) -> Iterator[Line]:
    """Line by line of two files; line n of one translates line n of the other.

    Raises:
        InputError: one has more lines than the other, or cannot be read as text.
        MissingFileError: a file that is not there.
    """
    both = zip_longest(numbered_lines(source), numbered_lines(target))
    for first, second in both:
        if first is None or second is None:
            there, line = (source, first) if second is None else (target, second)
            other = target if second is None else source
            if line[1].strip():
                raise InputError(
                    f"{there} has a line {line[0]}, but {other} ends before it; lines "
                    "of the two must translate each other one by one"
                )
            continue  # an empty last line
        yield f"{source}, line {first[0]}", first[1].strip(), second[1].strip()


def pairs_of_file(
    file: Path,
    source_key: str,
    target_key: str,
    bad: Callable[[RowError], None] | None = None,
) -> Iterator[Line]:
    """Pairs of one file: rows of JSON with two keys, or lines with a tab between.

    Of lines all further columns are left out; a first line that holds the two keys is
    a head.

    Args:
        file: ``.jsonl`` and ``.json`` hold rows, all others lines.
        source_key: of a row.
        target_key: of a row.
        bad: is told of each row without the two keys, or whose values are no texts,
            which is left out; None: it is an error.

    Raises:
        InputError: a line without a tab, or no JSON; names the line.
        MissingFileError: no such file.
        RowError: a row without the two keys, or whose values are no texts.
    """
    kind = kind_of(file)
    if kind in ("lines", "json"):
        rows = rows_of_lines(file) if kind == "lines" else rows_of_json(file)
        for _, where, row in rows:
            texts = row if isinstance(row, dict) else {}
            ours, theirs = texts.get(source_key), texts.get(target_key)
            if not isinstance(ours, str) or not isinstance(theirs, str):
                error = _no_pair(where, row, source_key, target_key)
                if bad is None:
                    raise error
                bad(error)
                continue
            yield where, ours.strip(), theirs.strip()
        return
    if kind in ("parquet", "arrow"):
        raise InputError(
            f"{file} holds columns, which pairs are not read from; give lines with a "
            "tab between source and target, rows of JSON, or two files"
        )
    for number, line in numbered_lines(file):
        where, cells = f"{file}, line {number}", line.rstrip("\r").split("\t")
        if number == 1 and cells[:2] == [source_key, target_key]:
            continue
        if len(cells) < 2 and line.strip():
            raise InputError(
                f"{where}: no tab; give source and target with a tab between them, or "
                "source and target as two files"
            )
        yield where, cells[0].strip(), (cells[1] if len(cells) > 1 else "").strip()


def _no_pair(where: str, row: Any, source_key: str, target_key: str) -> RowError:
    """What is wrong with a row that holds no two texts."""
    what = f"the row is {shorten(repr(row), 60)}"
    if isinstance(row, dict):
        keys = [k for k in (source_key, target_key) if not isinstance(row.get(k), str)]
        what = " and ".join(
            f"{key!r} is {shorten(repr(row[key]), 60)}"
            if key in row
            else f"there is no {key!r}"
            for key in keys
        )
    return RowError(
        f"{where}: {what}; give an object with the texts {source_key!r} and "
        f"{target_key!r}, which source_key and target_key may call otherwise, or set "
        "data.on_bad_row=skip"
    )
