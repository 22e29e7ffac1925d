"""Arms that ask whether a student passes teachers that read what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.bench.quality.arm import CE_ONLY, Arm
from experiments.bench.quality.disjoint.arms import KD, NO_KV
from experiments.bench.quality.same.bed import SIZES

DECAYS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Weight decays that are tried of the student alone, and of the first teacher; the
first is the default of a run."""
STUDENT_DECAY = 1.0
"""Of these, that of the baseline and of pupils: the best one of the student alone."""
TEACHER_DECAY = 3.0
"""Likewise of teachers: the best one of ``teacher-1``, the first."""
APART = 1000
"""Between the seeds of two teachers."""
_FIXED = ("phase.all.fuse.fusion_method=fixed",)


def _decay(weight: float) -> str:
    return f"train.weight_decay={weight:g}"


def same_arms(bed: Path) -> tuple[Arm, ...]:
    """The baseline, how it and teachers were tuned, the teachers, and their pupils.

    Args:
        bed: folder of the untrained models.
    """
    large = {n: f"student.model={bed / 'teachers' / n}" for n in SIZES}
    return (
        *_alone(),
        *_tuning(next(iter(large.values()))),
        *_teachers(large),
        *_pupils(),
    )


def _alone() -> Iterator[Arm]:
    """The student without a teacher."""

    def arm(name: str, asks: str, decay: float, stretch: int = 1) -> Arm:
        settings = (_decay(decay),)
        return Arm(name, asks, settings=settings, teachers=(), stretch=stretch)

    best = STUDENT_DECAY
    yield arm(CE_ONLY, f"the baseline, under a weight decay of {best:g}", best)
    for times in (2, 4):
        name, asks = f"ce-longer-{times}", f"the baseline for {times} times the steps"
        yield arm(name, asks, best, times)
    for decay in DECAYS:
        if decay != best:
            asks = f"the baseline under a weight decay of {decay:g}"
            yield arm(f"ce-decay-{decay:g}", asks, decay)


def _tuning(large: str) -> Iterator[Arm]:
    """Of the first teacher."""
    for decay in DECAYS:
        if decay != TEACHER_DECAY:
            yield Arm(
                f"large-decay-{decay:g}",
                f"the first teacher under a weight decay of {decay:g}",
                settings=(large, _decay(decay)),
                teachers=(),
                apart=APART,
            )


def _teachers(large: Mapping[str, str]) -> Iterator[Arm]:
    for number, (name, size) in enumerate(SIZES.items()):
        yield Arm(
            name,
            "{} layers, {} wide, inside {}".format(*size),
            settings=(large[name], _decay(TEACHER_DECAY)),
            teachers=(),
            apart=APART * (1 + number),
        )


def _pupils() -> Iterator[Arm]:
    def pupil(name: str, asks: str, teachers: int, *settings: str) -> Arm:
        take_part = f"phase.all.teachers={{min: {teachers}, max: {teachers}}}"
        given = (*NO_KV, *KD, *_FIXED, take_part, _decay(STUDENT_DECAY), *settings)
        return Arm(
            name, asks, settings=given, teachers=tuple(SIZES)[:teachers], pupils=True
        )

    yield pupil("from-2", "outputs of two teachers", 2)
    # One teacher is tuned as all of them are.
    for teachers, of in ((1, "the first teacher"), (4, "all teachers")):
        name, asks = f"from-{teachers}", f"outputs of {of}"
        yield pupil(name, asks, teachers)
        for way, how, setting in (
            ("alone", "without the next token", "phase.all.loss.delta_ce=0"),
            ("heavy", "four times as heavy", "phase.all.output.kd=4"),
            ("warm", "at a temperature of 2", "phase.all.output.temperature=2"),
            ("decay", "weight decay as by default", _decay(DECAYS[0])),
        ):
            yield pupil(f"{name}-{way}", f"{asks}, {how}", teachers, setting)
