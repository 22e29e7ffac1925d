"""Names and texts of other people in pictures, Markdown and on a terminal: as text.

A domain may be called ``$a_$``, ``<script>`` or ``[red]``, and a file's name may hold
an escape sequence or turn the direction of reading. Wherever such a name is written,
the function of that place makes it mean itself. HTML is escaped by its template engine;
of rich, markup is switched off.
"""

from __future__ import annotations

import re
import sys

UNSEEN = "\N{REPLACEMENT CHARACTER}"
"""In place of a character that shows nothing, and may move or turn what does."""
_MEANT = re.compile(
    r"[`*<$]"  # code, stress, HTML, formulas
    r"|\](?=[(\[:])|~(?=~)|(?<=~)~"  # links, strokes
    r"|\\(?=[!-/:-@\[-`{-~])|&(?=[#\w])"  # escapes and entities
    r"|(?<![^\W_])_|_(?![^\W_])"  # stress, which needs the edge of a word
)
"""What Markdown would take for more than itself; the rest of a text stays readable."""


def visible(text: str, lines: bool = False) -> str:
    """A text without control, format and separator characters.

    Args:
        text: whosever.
        lines: keep the ends of lines and tabs; otherwise ``⏎`` marks them.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    marked = text if lines else text.replace("\r\n", "\n").replace("\n", "⏎")
    return "".join(c if c.isprintable() or c in kept else UNSEEN for c in marked)


def say(text: str) -> None:
    """Write a sentence to the standard error, its lines kept."""
    print(visible(text, lines=True), file=sys.stderr, flush=True)


def put(text: str, *, flush: bool = False) -> None:
    """Write a sentence to the standard output, its lines kept."""
    print(visible(text, lines=True), flush=flush)


def in_picture(text: str) -> str:
    """A text that matplotlib shows as it is: a pair of dollars is no formula."""
    return visible(text, lines=True).replace("$", r"\$")


def in_markdown(text: str) -> str:
    """A text that Markdown shows as it is, within a line."""
    return _MEANT.sub(r"\\\g<0>", visible(text))


def code_in_markdown(text: str) -> str:
    """A text as Markdown's code: between more backticks than it has in a row."""
    shown = visible(text)
    longest = max((len(row) for row in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    room = " " if shown[:1] in ("`", "") or shown[-1:] == "`" else ""
    return f"{fence}{room}{shown}{room}{fence}"
