"""Plain text, cut into documents while it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from align.text.fragment import Fragment

PACK_CHARS = 2000
"""Paragraphs of a plain text file are packed into documents of about this size."""

MOST_CHARS = 64 * PACK_CHARS
"""A document without blank lines ends at a line once it is so long."""

_BLANK_LINE = re.compile(r"\r?\n[^\S\r\n]*\r?\n\s*")


def documents(
    blocks: Iterable[str],
    cut_line: Callable[[str, int, int], int],
    pack: int = PACK_CHARS,
    most: int = MOST_CHARS,
) -> Iterator[str]:
    """Whole paragraphs, packed into documents of about ``pack`` characters.

    A document ends at the first blank line that lies ``pack`` characters or more
    behind its beginning; the blanks there belong to no document. Where ``most``
    characters hold no such place it ends after the last line in them, else within the
    line, as a :class:`Fragment`, and the next one goes on from there.

    What is held, and what is searched again, is at most ``most`` characters and a
    block, whatever the layout.

    Args:
        blocks: the text in pieces, none of them empty.
        cut_line: where to cut a line: (text, start, limit) -> in (start, limit].
        pack: least characters of a document and the blank line behind it.
        most: most characters of a document, >= ``pack``.
    """
    buffer, begin, searched, skip = "", 0, 0, False
    for block in chain(blocks, [""]):
        fresh = block.lstrip() if skip else block
        if block and not fresh:
            continue  # still within the blanks between two documents
        buffer, begin, searched = buffer[begin:] + fresh, 0, searched - begin
        skip, last = False, not block
        while True:
            limit = begin + most
            gap = _BLANK_LINE.search(buffer, searched, limit)
            if gap is None:
                if len(buffer) <= limit:
                    break
                cut = _line_end(buffer, begin, limit)
                if cut:
                    yield buffer[begin:cut]
                else:
                    cut = cut_line(buffer, limit - pack, limit)
                    yield Fragment(buffer[begin:cut])
                begin = searched = cut
                continue
            if gap.end() == limit:  # it may go on beyond
                gap = _BLANK_LINE.match(buffer, gap.start())
                assert gap is not None
            open_end = gap.end() == len(buffer) and not last
            if gap.end() - begin >= pack:
                yield buffer[begin : gap.start()]
                begin = searched = gap.end()
                skip = open_end
            elif open_end:
                searched = gap.start()
                break
            else:
                searched = gap.end()
    if begin < len(buffer):
        yield buffer[begin:]


def _line_end(text: str, begin: int, limit: int) -> int:
    """The end of the last line in [begin, limit), 0 if none ends there."""
    feed = text.rfind("\n", begin, limit)
    # A carriage return at the limit may be the first half of CRLF
    bare = text.rfind("\r", begin, limit - 1)
    return max(feed, bare) + 1
