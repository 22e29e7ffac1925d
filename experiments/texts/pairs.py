"""What becomes of a pair: a prompt with its completion, or two texts apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from align.across.links import links_of_line
from align.errors import InputError
from align.text.files import numbered_lines
from align.text.parallel import Line
from align.text.prompted import Beside, Prompted
from experiments.texts.config import PairsConfig

LinkLine = tuple[str, str]
"""Its place, for errors, and what stands there."""


def with_links(
    lines: Iterable[Line], links: str | None
) -> Iterator[tuple[Line, LinkLine | None]]:
    """Pairs, each with the line that links its words.

    Args:
        lines: of two files, those included of which a side is empty.
        links: a file with as many lines; None: no pair has one.

    Raises:
        InputError: it has more lines, or fewer.
        MissingFileError: it is not there.
    """
    if links is None:
        yield from ((line, None) for line in lines)
        return
    path = Path(links).expanduser()
    for line, linked in zip_longest(lines, numbered_lines(path)):
        if line is None:
            if not linked[1].strip():
                continue  # empty last lines
            raise InputError(
                f"{path} has a line {linked[0]}, but source and target end before it; "
                "give a line for each pair"
            )
        if linked is None and line[1] and line[2]:
            raise InputError(
                f"{path} ends before {line[0]}; give a line for each pair, empty where "
                "no words are linked"
            )
        place = linked or ("", "")
        yield line, (f"{path}, line {place[0]}", place[1])


def text_of_pair(
    pairs: PairsConfig, name: str, source: str, target: str, linked: LinkLine | None
) -> str:
    """What the student reads of a pair, with what teachers read.

    Args:
        pairs: its settings.
        name: of the language pair.
        source: the sentence.
        target: its translation.
        linked: from :func:`with_links`.

    Raises:
        InputError: a line that links words that are not there.
    """
    if not pairs.apart:
        prompt = pairs.prompt.format(source=source, pair=name)
        return Prompted(prompt, f" {target}")
    if linked is None:
        return Beside(target, source)
    where, line = linked
    return Beside(target, source, links_of_line(line, source, target, where))
