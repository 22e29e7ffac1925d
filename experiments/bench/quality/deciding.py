"""Arms that ask what is learned, and when.

Where every domain has its own teacher, all of them are the arm ``prequential`` with a
selector or a curriculum: teachers' outputs alone, weighed by what each foresaw. On a
real teacher they are that teacher's pupil, under the losses of ``mtkd train real``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from experiments.bench.quality.arm import CE_ONLY, Arm
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
_SCORED_ANEW = ("lagging-more", "lagging-domains")
_RESCORE, _RESCORE_REAL = 15, 30
"""Steps between two scorings; a pretrained teacher is dear to ask."""
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


REAL_TEACHER = "smollm2"
"""The teacher of ``mtkd train real`` that has outputs."""
REAL_ENCODER = "minilm"
"""Its other one."""
_REAL_RUN = (
    "baselines.ce_only=false",
    "baselines.single_teachers=none",
    "samples.prompts=0",
    "answers.keep=[]",
)
_REAL = ("phase.all.teachers.min=1", *_REAL_RUN)


def selecting_arms(domains: Sequence[str]) -> tuple[Arm, ...]:
    """Which places of teachers' outputs are learned.

    Args:
        domains: each with a teacher of that name.
    """
    return tuple(_selecting(domains, _foreseen(domains)))


def ordering_arms(domains: Sequence[str]) -> tuple[Arm, ...]:
    """In which order texts are read.

    Args:
        domains: each with a teacher of that name.
    """
    return tuple(_ordering(domains, _foreseen(domains), _RESCORE))


def real_arms() -> dict[str, tuple[Arm, ...]]:
    """The same questions of a pretrained teacher, by group."""
    teachers = (REAL_TEACHER,)
    encoder = (
        "phase.real_multi.teachers={min: 1, kinds: [encoder]}",
        "phase.all.output.projected_kl=0",  # it has none
    )
    return {
        "real": (
            Arm(CE_ONLY, "the baseline", settings=_REAL_RUN, teachers=()),
            Arm(
                REAL_TEACHER,
                "all places, an even order",
                settings=_REAL,
                teachers=teachers,
            ),
            Arm(
                REAL_ENCODER,
                "an encoder alone, its keys and values",
                settings=(*_REAL_RUN, *encoder),
                teachers=(REAL_ENCODER,),
                phases=("real_multi",),
            ),
            Arm(
                "both",
                "both of them",
                settings=_REAL_RUN,
                teachers=(*teachers, REAL_ENCODER),
                phases=("real_multi",),
            ),
        ),
        "selected": tuple(_selecting(teachers, _REAL)),
        "ordered": tuple(_ordering(teachers, _REAL, _RESCORE_REAL)),
    }


def _foreseen(domains: Sequence[str]) -> tuple[str, ...]:
    return (*all_of_them(domains), FORESEEN)


def _selecting(teachers: Sequence[str], settings: Sequence[str]) -> Iterator[Arm]:
    for name, (asks, to) in _SELECTORS.items():
        selector = f"phase.all.loss.select={{{name}: {json.dumps(to)}}}"
        yield _arm(f"select-{name}", asks, teachers, (*settings, selector))


def _ordering(
    teachers: Sequence[str], settings: Sequence[str], rescore: int
) -> Iterator[Arm]:
    for name, (asks, to) in _CURRICULA.items():
        anew = {"rescore": rescore} if name in _SCORED_ANEW else {}
        curriculum = f"data.curriculum={json.dumps({**to, **anew})}"
        yield _arm(f"order-{name}", asks, teachers, (*settings, curriculum))


def _arm(
    name: str, asks: str, teachers: Sequence[str], settings: tuple[str, ...]
) -> Arm:
    return Arm(name, asks, settings=settings, teachers=tuple(teachers))
