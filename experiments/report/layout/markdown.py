"""Write a document as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from itertools import groupby
from urllib.parse import quote

from align.foreign.quote import code_in_markdown, in_markdown, visible
from experiments.report.layout.document import (
    Block,
    Code,
    Document,
    Figures,
    Items,
    Mark,
    Paragraph,
    Phrase,
    Picture,
    Sample,
    Table,
    parts,
)

AROUND = {"strong": "**", "em": "*"}


def markdown(document: Document) -> str:
    """The document as text, its pictures linked from ``figures``."""
    blocks = [
        f"# Run {code_in_markdown(document.title)}",
        *map(block_text, document.lead),
    ]
    for section in document.sections:
        blocks += [f"## {in_markdown(section.title)}", *map(block_text, section.blocks)]
    if document.footer:
        blocks += ["---", " ".join(map(inline, document.footer))]
    return "\n\n".join(blocks) + "\n"


def inline(phrase: Phrase) -> str:
    """A phrase; nothing in it is taken for more than text."""
    return "".join(_part(part) for part in parts(phrase))


def _part(part: str | Mark) -> str:
    if isinstance(part, str):
        return in_markdown(part)
    if part.kind == "code":
        return code_in_markdown(part.text)
    around = AROUND.get(part.kind, "")
    return around + in_markdown(part.text) + around


@singledispatch
def block_text(block: Block) -> str:
    """One block as Markdown."""
    raise TypeError(f"no way to write {block!r}")


@block_text.register
def _(block: Paragraph) -> str:
    return inline(block.phrase)


@block_text.register
def _(block: Items) -> str:
    return "\n".join(f"- {inline(phrase)}" for phrase in block.phrases)


@block_text.register
def _(block: Figures) -> str:
    return "\n".join(
        f"- {inline(what)}: {inline(much)}{f' ({inline(beside)})' * bool(beside)}"
        for what, much, beside in block.rows
    )


@block_text.register
def _(block: Table) -> str:
    numbers = range(block.numbers_from, len(block.heads))
    rule = ["---:" if i in numbers else "---" for i in range(len(block.heads))]
    rows = [block.heads, *block.rows]
    head, *body = ([_cell(cell) for cell in row] for row in rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def _cell(phrase: Phrase) -> str:
    """What stays in its cell."""
    return inline(phrase).replace("|", "\\|")


@block_text.register
def _(block: Code) -> str:
    return _fenced(block.text, block.language)


@block_text.register
def _(block: Picture) -> str:
    picture = f"![{block.stem}](figures/{quote(block.stem)}.png)"
    return f"{picture}\n\n{inline(block.caption)}"


@block_text.register
def _(block: Sample) -> str:
    """The prompt ends at ``|``."""
    texts = {"before": block.before, "after": block.after}
    return "\n\n".join(
        f"*{moment}*\n\n{_fenced(f'{block.prompt}|{text}', 'text')}"
        for moment, text in texts.items()
    )


def _fenced(text: str, language: str) -> str:
    """A fence longer than any row of backticks within."""
    text = visible(text, lines=True)
    fence = "`" * max(3, 1 + max(_rows_of_backticks(text), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _rows_of_backticks(text: str) -> Iterator[int]:
    return (len(list(row)) for tick, row in groupby(text) if tick == "`")
