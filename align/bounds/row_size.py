"""How long a row of data may be, which has to be held whole to be read."""

from __future__ import annotations

import os

from align.errors import InputError

MAX_ROW = "MTKD_MAX_ROW_CHARS"
"""Environment variable: another bound."""
MOST_CHARS = 1 << 27
"""Characters of a row: of a line of .jsonl, an object of .json, a value of a table."""


def most_row_chars() -> int:
    """The bound in use.

    Raises:
        InputError: the variable is no count.
    """
    given = os.environ.get(MAX_ROW, "")
    if not given:
        return MOST_CHARS
    if given.isdecimal() and len(given) < 16 and int(given) > 0:
        return int(given)
    raise InputError(f"{MAX_ROW} is {given[:40]!r}; give a number of characters, >= 1")


def refuse_long_row(chars: int, where: str) -> None:
    """See that a row may be held.

    Args:
        chars: that have been read of it.
        where: its place.

    Raises:
        InputError: they are too many.
    """
    most = most_row_chars()
    if chars > most:
        raise InputError(
            f"{where}: one row of more than {most:,} characters, which would be held "
            f"whole; cut it into rows, or set {MAX_ROW} if memory suffices"
        )
