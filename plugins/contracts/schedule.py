"""Contract of schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from align.schedules import Moment, Rule
from plugins.answers import schedule_problem
from plugins.promise import Promise, problem

_ROWS = 5
CALLS = 120
"""How often one rule is asked, since some faults begin late."""


def schedule(rule: Rule) -> Iterator[Promise]:
    """A schedule is tried along a phase, both ways, on sure and unsure teachers."""

    def moments() -> Iterator[Moment]:
        for start, end in ((1.0, 4.0), (4.0, 1.0), (2.0, 2.0)):
            for progress in (0.0, 0.5, 1.0):
                for ratios in ((0.0, 0.0), (1e-3, 2.0), (2.0, 1e-3), (math.inf, 1.0)):
                    yield _moment(start, end, progress, ratios)

    def shaped() -> str:
        answer = rule(next(moments()))
        fits = isinstance(answer, (float, int)) or answer.shape in ((), (_ROWS,))
        return problem(not fits, f"gives {answer!r} for {_ROWS} tokens")

    def positive() -> str:
        for moment in moments():
            wrong = schedule_problem(rule(moment), _ROWS)
            if wrong:
                return f"{wrong} at progress {moment.progress}"
        return ""

    def often() -> str:
        for call in range(CALLS):
            rows = (1, 300, 17)[call % 3]
            moment = _moment(1.0, 4.0, call / CALLS, (1.0, 2.0), rows)
            wrong = schedule_problem(rule(moment), rows)
            if wrong:
                return f"{wrong} (call {call + 1}, {rows} tokens)"
        return ""

    def repeated() -> str:
        apart = [
            moment.progress
            for moment in moments()
            if not torch.equal(*(torch.as_tensor(rule(moment)) for _ in range(2)))
        ]
        return problem(apart, f"differs when asked again at progress {apart[:1]}")

    yield Promise("is one number, or one a token", shaped)
    yield Promise("is finite and > 0 at any moment", positive)
    yield Promise("depends on the moment alone, so that a resumed run agrees", repeated)
    yield Promise("keeps all this call after call", often)


def _moment(
    start: float,
    end: float,
    progress: float,
    ratios: tuple[float, float],
    rows: int = _ROWS,
) -> Moment:
    vocabulary = 151_936

    def entropy() -> Tensor:
        return torch.linspace(0, math.log(vocabulary), rows)

    return Moment(
        start=start,
        end=end,
        progress=progress,
        step=round(progress * CALLS),
        steps=CALLS,
        vocabulary=vocabulary,
        teacher_entropy=entropy,
        signal_to_noise=lambda: ratios,
        parameters=lambda: (1_000_000, 7_000_000),
        logit_spread=lambda: (torch.linspace(0, 9, rows), torch.linspace(9, 0, rows)),
        loss_gap=lambda: torch.linspace(-1, 3, rows),
        at_temperature=lambda t: (math.log(vocabulary) * t / (1 + t), 1 / t),
        kept=lambda term: 1 - 0.9 * progress,
        difficulty=lambda: torch.linspace(0, 2, rows),
    )
