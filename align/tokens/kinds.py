"""What kind of text a token holds, for reports."""

from __future__ import annotations

from collections.abc import Sequence

WORD, PIECE, NUMBER, MARK, BLANK = "word", "piece", "number", "mark", "blank"
KINDS = (WORD, PIECE, NUMBER, MARK, BLANK)
"""A token that begins with a letter at the beginning of a word, or within one; with a
digit; with another sign; of blanks alone."""


def kinds_of_tokens(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """One of ``KINDS`` for each token; empty for one without text.

    Args:
        text: unmodified.
        spans: [start, end) of each token in ``text``.
    """
    return [_kind(text, start, end) for start, end in spans]


def _kind(text: str, start: int, end: int) -> str:
    held = text[start:end]
    if not held:
        return ""
    inside = held.lstrip()
    if not inside:
        return BLANK
    first = inside[0]
    if first.isdigit():
        return NUMBER
    if not (first.isalpha() or first == "_"):
        return MARK
    within = len(inside) == len(held) and start > 0 and text[start - 1].isalpha()
    return PIECE if within else WORD
