"""Contract of curricula: texts of all kinds, asked along a phase, in any order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from align.support.field_types import shown
from plugins.answers import numbers_problem
from plugins.promise import Promise, problem
from plugins.untouched import Untouched
from student.curriculum import COLUMNS, Draw, Scores, leaves_out
from student.curriculum.scores import BY_TEACHER

TEXTS, SIZE, STEPS = 48, 4, 240
"""N, texts a step, and steps: enough for every text to have its turn twenty times."""
MANY, MILLISECONDS = 20_000, 200.0
"""Texts of a larger set, and what a step may take among them on the mean."""


def curriculum(factory: Callable[..., Any]) -> Iterator[Promise]:
    """A curriculum orders texts of three domains, some of which nobody knows."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


def scores(texts: int = TEXTS, *, unknown: bool = False, again: bool = False) -> Scores:
    """Scores of texts as training would hand them over.

    Args:
        texts: N.
        unknown: whether nobody knows anything but lengths.
        again: whether they are of a second scoring.
    """
    generator = torch.Generator().manual_seed(texts)
    columns = {}
    for name in COLUMNS:
        shape = (texts, 2) if name in BY_TEACHER else (texts,)
        column = 3 * torch.rand(shape, generator=generator, dtype=torch.float64)
        column[::7] = math.nan
        columns[name] = torch.full_like(column, math.nan) if unknown else column
    columns["length"] = torch.randint(1, 128, (texts,), generator=generator).double()
    return Scores(
        domains=["prose", "prose", "prose", "code", "verse"] * (texts // 5)
        + ["prose"] * (texts % 5),
        teachers=["one", "two"],
        columns=columns,
        before=scores(texts, unknown=unknown) if again else None,
    )


def draw(step: int, *, size: int = SIZE, steps: int = STEPS, since: int = 0) -> Draw:
    """What one step asks for."""
    texts = size * steps
    return Draw(seed=7, first=step * size, size=size, texts=texts, since=since)


@dataclass(frozen=True)
class _Subject:
    """What is tried."""

    factory: Callable[..., Any]

    @cached_property
    def read(self) -> list[list[int]]:
        """The texts of every step of a phase, asked for in order."""
        made, known = self.factory(), scores()
        return [list(made(known, draw(step))) for step in range(STEPS)]

    def needs(self) -> str:
        said = getattr(self.factory(), "needs", None)
        right = isinstance(said, frozenset) and said <= COLUMNS.keys()
        return problem(
            not right,
            f"has needs = {shown(said)}; say a frozenset of {', '.join(COLUMNS)}",
        )

    def numbers(self) -> str:
        made, known = self.factory(), scores()
        before = Untouched({"scores": dict(known.columns)}, whole=True)
        for step in (0, 1, STEPS // 2, STEPS - 1):
            wrong = numbers_problem(made(known, draw(step)), SIZE, TEXTS)
            if wrong:
                return f"{wrong} (step {step} of {STEPS})"
        return before.problem()

    def all_kinds(self) -> str:
        cases = {
            "where nobody knows how hard texts are": (scores(unknown=True), draw(3)),
            "where they were scored again": (scores(again=True), draw(9, since=20)),
            "of one text": (scores(1), draw(3)),
            "of fewer texts than a step reads": (scores(3), draw(3, size=8)),
            "one text at a time": (scores(), draw(5, size=1)),
        }
        for case, (known, asked) in cases.items():
            numbers = self.factory()(known, asked)
            wrong = numbers_problem(numbers, asked.size, len(known))
            if wrong:
                return f"{wrong}, {case}"
        return ""

    def pure(self) -> str:
        known = scores()
        for step in (STEPS - 1, 0, STEPS // 3):
            first = list(self.factory()(known, draw(step)))
            if first != self.read[step]:
                return (
                    f"names {first[:4]} in step {step} where that is asked first, and "
                    f"{self.read[step][:4]} after the steps before it; a run that goes "
                    "on would read other texts"
                )
        made = self.factory()
        made(scores(again=True), draw(5))
        after = list(made(known, draw(5)))
        return problem(
            after != self.read[5], "names other texts after it was given other scores"
        )

    def starves(self) -> str:
        read = {number for step in self.read for number in step}
        never = sorted(set(range(TEXTS)) - read)
        silent = not leaves_out(self.factory())
        return problem(
            bool(never) and silent,
            f"never names {len(never)} of {TEXTS} texts, such as {never[:3]}, in a "
            f"phase of {STEPS * SIZE}; say leaves_out = True if that is meant",
        )

    def cheap(self) -> str:
        known, made = scores(MANY), self.factory()
        made(known, draw(0, size=64))
        started = time.process_time()
        for step in range(1, 6):
            made(known, draw(step, size=64))
        spent = 1000 * (time.process_time() - started) / 5
        return problem(
            spent > MILLISECONDS,
            f"takes {spent:.0f} ms a step of {MANY} texts; {MILLISECONDS:.0f} are "
            "allowed, for a step of training waits for it",
        )


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("says which columns it needs", _Subject.needs),
    ("names as many texts as are asked for, of those there are", _Subject.numbers),
    ("does so for texts of all kinds and numbers", _Subject.all_kinds),
    (
        "follows from scores and place alone, so that arms and resumes agree",
        _Subject.pure,
    ),
    ("leaves no text out for ever, or says so", _Subject.starves),
    ("takes little time among many texts", _Subject.cheap),
)
