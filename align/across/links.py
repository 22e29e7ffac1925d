"""Which words translate which: read from lines such as ``0-0 1-2``."""

from __future__ import annotations

import re

from align.errors import InputError
from align.text.prompted import Link

_WORD = re.compile(r"\S+")
_LINK = re.compile(r"(\d+)-(\d+)")


def word_spans(text: str) -> list[tuple[int, int]]:
    """[start, end) of each word of a text, that is what stands between blanks."""
    return [match.span() for match in _WORD.finditer(text)]


def links_of_line(line: str, source: str, target: str, where: str) -> list[Link]:
    """What one line says of a pair.

    Args:
        line: links of a word of the source and a word of the target, counted from 0,
            with a hyphen between, parted by blanks (the Pharaoh format); may be empty.
        source: a sentence.
        target: its translation.
        where: place of the line, for errors.

    Raises:
        InputError: something else than links, or a word that is not there.
    """
    words = {"source": word_spans(source), "target": word_spans(target)}
    links = []
    for entry in dict.fromkeys(line.split()):  # said twice it is still one
        match = _LINK.fullmatch(entry)
        if match is None:
            raise InputError(
                f"{where}: {entry!r} is no link; give the number of a word of the "
                "source and of one of the target, counted from 0, such as 0-0 1-2"
            )
        ends = dict(zip(words, map(int, match.groups()), strict=True))
        for side, number in ends.items():
            if number >= len(words[side]):
                raise InputError(
                    f"{where}: {entry!r} links word {number} of the {side}, which has "
                    f"{len(words[side])} words between blanks, counted from 0; link "
                    "the words of the very lines of source and target"
                )
        links.append(
            (*words["target"][ends["target"]], *words["source"][ends["source"]])
        )
    return links
