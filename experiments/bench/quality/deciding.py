"""Arms that ask what is learned, and when, where every domain has its own teacher.

All of them are the arm ``prequential`` with a selector or a curriculum: teachers'
outputs alone, weighed by what each foresaw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from experiments.bench.quality.arm import Arm
from experiments.bench.quality.disjoint_arms import FORESEEN, all_of_them

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
        "more of texts where it lags, scored anew every 15 steps",
        {"use": "adaptive", "difficulty": "gap", "rescore": 15},
    ),
    "lagging-domains": (
        "more of domains where it lags, scored anew every 15 steps",
        {"use": "domains", "by": "gap", "rescore": 15},
    ),
}


def selecting_arms(domains: Sequence[str]) -> tuple[Arm, ...]:
    """Which places of teachers' outputs are learned.

    Args:
        domains: each with a teacher of that name.
    """
    return tuple(
        _arm(
            domains, f"select-{name}", asks, f"phase.all.loss.select={{{name}: %s}}", to
        )
        for name, (asks, to) in _SELECTORS.items()
    )


def ordering_arms(domains: Sequence[str]) -> tuple[Arm, ...]:
    """In which order texts are read.

    Args:
        domains: each with a teacher of that name.
    """
    return tuple(
        _arm(domains, f"order-{name}", asks, "data.curriculum=%s", to)
        for name, (asks, to) in _CURRICULA.items()
    )


def _arm(
    domains: Sequence[str],
    name: str,
    asks: str,
    setting: str,
    to: Mapping[str, object],
) -> Arm:
    settings = (*all_of_them(domains), FORESEEN, setting % json.dumps(to))
    return Arm(name, asks, settings=settings, teachers=tuple(domains))
