"""The page ``docs/techniques.md``: what the literature asks for, the YAML, the test.

    make docs                       # this, among others
    python scripts/techniques.py    # this alone

Written from ``scripts/techniques.yaml``, so that a row is said once and its config and
its tests can be looked up; ``tests/test_docs.py`` does both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "scripts" / "techniques.yaml"
PAGE = ROOT / "docs" / "techniques.md"

_LEAD = """\
# Techniques of the literature, and what does them here

*Written by `make docs` from `scripts/techniques.yaml`.*

What papers and surveys on distillation call comparing, scheduling and balancing is
three mechanisms here: one term [`match`](match.md) for every place and distance,
[schedules](schedules.md) for every number, and `loss.balance`. Each line names a
technique, what switches it on in a config file, and the tests that hold its formula. A
test loads the YAML of every line beside the packaged config `quickstart`
(`test_the_yaml_of_every_technique_is_a_config`). In the column *row* are numbers of the
survey of techniques behind this project; each is on one of the lines below, or under
[Elsewhere](#elsewhere) (`test_every_row_of_the_survey_is_somewhere_once`)."""

SURVEY = {2: 31, 3: 104}
"""How many rows each part of the survey has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One technique."""

    technique: str
    config: str
    """YAML of a config, in one line."""
    tests: tuple[str, ...]
    """``FILE::FUNCTION`` each, FILE under ``tests/``."""
    row: tuple[str, ...]
    """Numbers of the survey, as ``3-11``; none of what it does not name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """Rows of the survey that no line of the page does."""

    row: tuple[str, ...]
    """Numbers of the survey, or ranges, as ``3-65..3-68``."""
    what: str
    where: str = ""
    """A page under ``docs/``; empty: nothing is built."""
    but: str = ""
    """What of them is not built, or why nothing is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Some techniques under one heading."""

    title: str
    lead: str
    rows: tuple[Row, ...]
    elsewhere: tuple[Elsewhere, ...] = ()


def sections() -> list[Section]:
    """What the source says.

    Raises:
        InputError: it is no YAML.
        TypeError: a row has other keys.
    """
    from align.bounds.yaml_document import read_yaml

    said: Any = read_yaml(SOURCE.read_text(encoding="utf-8"), str(SOURCE))
    return [
        Section(
            title=section["title"],
            lead=section.get("lead", ""),
            rows=tuple(
                Row(**row | {key: tuple(row[key]) for key in ("tests", "row")})
                for row in section["rows"]
            ),
            elsewhere=tuple(
                Elsewhere(**entry | {"row": tuple(entry["row"])})
                for entry in section.get("elsewhere", ())
            ),
        )
        for section in said
    ]


def page() -> str:
    """The page as Markdown."""
    parts = [_LEAD]
    for section in sections():
        parts.append(f"## {section.title}")
        parts += [section.lead] if section.lead else []
        rows = [_line(row) for row in section.rows]
        if rows:
            head = ["| row | technique | YAML | held by |", "|---|---|---|---|"]
            parts.append("\n".join([*head, *rows]))
        if section.elsewhere:
            head = ["| row | what | where |", "|---|---|---|"]
            parts.append("\n".join([*head, *map(_place, section.elsewhere)]))
    return "\n\n".join(parts) + "\n"


def settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a row's config, as a command line sets them.

    Args:
        config: what the row's YAML says.

    Yields:
        ``section.key`` and its value; of a teacher, each of its keys.
    """
    for section, keys in config.items():
        for key, value in keys.items():
            if section == "teachers":
                yield from ((f"teachers.{key}.{x}", value[x]) for x in value)
            else:
                yield f"{section}.{key}", value


def _line(row: Row) -> str:
    tests = ", ".join(
        f"[`{name}`](../tests/{path})"
        for path, _, name in (test.partition("::") for test in row.tests)
    )
    return f"| {_numbers(row.row)} | {row.technique} | `{row.config}` | {tests} |"


def _place(entry: Elsewhere) -> str:
    page = f"[{entry.where.removesuffix('.md')}]({entry.where})"
    said = f"{page}; {entry.but}" if entry.but else page
    where = said if entry.where else f"not built: {entry.but}"
    return f"| {_numbers(entry.row)} | {entry.what} | {where} |"


def _numbers(rows: Sequence[str]) -> str:
    return ", ".join(rows).replace("..", " to ") or "–"


def numbers(rows: Sequence[str]) -> Iterator[str]:
    """Numbers of the survey one by one, ``3-65..3-68`` as four.

    Raises:
        ValueError: one is no number of the survey's form.
    """
    for row in rows:
        first, _, last = row.partition("..")
        part, _, low = first.partition("-")
        high = (last or first).removeprefix(f"{part}-")
        yield from (f"{part}-{n}" for n in range(int(low), int(high) + 1))


def main() -> None:
    """Write the page."""
    sys.path.insert(0, str(ROOT))  # also where the checkout is not installed
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
