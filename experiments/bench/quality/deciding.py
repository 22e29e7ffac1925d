"""Arms that ask what is learned, and when.

Where every domain has its own teacher, all of them are the arm ``prequential`` with a
selector or a curriculum: teachers' outputs alone, weighed by what each foresaw. On a
real teacher they are that teacher's pupil, under the losses of ``mtkd train real``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from experiments.bench.quality.arm import Arm
from experiments.bench.quality.disjoint.arms import FORESEEN, all_of_them

_SELECTORS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "unsure": (
        "the half of places that a teacher is least sure of",
        {"use": "uncertain", "percentile": 50},
    ),
    "sure": (
        "the half that it is surest of",
        {"use": "uncertain", "percentile": 50, "keep": "below"},
    ),
    "unsure-student": (
        "places where the student is unsure count more",
        {"use": "unsure_student"},
    ),
    "excess": (
        "the 0.6 of places where the student lags most behind a teacher",
        {"use": "excess_loss", "share": 0.6},
    ),
    "confident": (
        "places at which a teacher gave little to what came count less",
        {"use": "confident_teacher"},
    ),
}
_SCORED_ANEW = ("lagging-more", "lagging-domains")
RESCORE = 15
"""Steps between two scorings."""
_CURRICULA: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "short-first": (
        "short texts before long ones",
        {"use": "competence", "difficulty": "length"},
    ),
    "easy-first": (
        "texts where the student lags least behind teachers before others",
        {"use": "competence", "difficulty": "gap"},
    ),
    "hard-first": (
        "those where it lags most before others",
        {"use": "competence", "difficulty": "gap", "hard_first": True},
    ),
    "lagging-more": (
        "more of texts where it lags, scored anew",
        {"use": "adaptive", "difficulty": "gap"},
    ),
    "lagging-domains": (
        "more of domains where it lags, scored anew",
        {"use": "domains", "by": "gap"},
    ),
}


def selecting_arms(
    teachers: Sequence[str], settings: Sequence[str], phase: str = "multi_basic"
) -> tuple[Arm, ...]:
    """Which places of teachers' outputs are learned.

    Args:
        teachers: of all arms.
        settings: of the arm that learns every place in an even order.
        phase: of all arms.
    """
    return tuple(_selecting(teachers, settings, phase))


def ordering_arms(
    teachers: Sequence[str],
    settings: Sequence[str],
    phase: str = "multi_basic",
    rescore: int = RESCORE,
) -> tuple[Arm, ...]:
    """In which order texts are read.

    Args:
        teachers: of all arms.
        settings: as in :func:`selecting_arms`.
        phase: of all arms.
        rescore: steps between two scorings, where an arm scores anew.
    """
    return tuple(_ordering(teachers, settings, phase, rescore))


def foreseen(domains: Sequence[str]) -> tuple[str, ...]:
    """Settings of the arm that has every domain's teacher, weighed by what each
    foresaw."""
    return (*all_of_them(domains), FORESEEN)


def _selecting(
    teachers: Sequence[str], settings: Sequence[str], phase: str
) -> Iterator[Arm]:
    for name, (asks, to) in _SELECTORS.items():
        selector = f"phase.all.loss.select={{{name}: {json.dumps(to)}}}"
        yield _arm(f"select-{name}", asks, teachers, (*settings, selector), phase)


def _ordering(
    teachers: Sequence[str], settings: Sequence[str], phase: str, rescore: int
) -> Iterator[Arm]:
    for name, (asks, to) in _CURRICULA.items():
        anew = {"rescore": rescore} if name in _SCORED_ANEW else {}
        curriculum = f"data.curriculum={json.dumps({**to, **anew})}"
        yield _arm(f"order-{name}", asks, teachers, (*settings, curriculum), phase)


def _arm(
    name: str,
    asks: str,
    teachers: Sequence[str],
    settings: tuple[str, ...],
    phase: str,
) -> Arm:
    return Arm(name, asks, settings=settings, teachers=tuple(teachers), phases=(phase,))
