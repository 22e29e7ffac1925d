"""Arms that ask whether a student passes teachers that read what it reads."""

from __future__ import annotations

from pathlib import Path

from experiments.bench.quality.arm import CE_ONLY, Arm
from experiments.bench.quality.disjoint_arms import KD, NO_KV
from experiments.bench.quality.same.bed import SIZES

DECAYS = (0.01, 0.1, 0.3, 1.0, 3.0)
"""Weight decays that are tried of the student alone, and of the first teacher; the
first is the default of a run."""
STUDENT_DECAY = 0.3
"""Of these, that of the baseline and of pupils; to be set to the best one of the
student alone, which was not measured yet."""
TEACHER_DECAY = 0.3
"""Likewise of teachers: that of ``teacher-1``, which stands for it in the tuning."""
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

    def large(name: str) -> str:
        return f"student.model={bed / 'teachers' / name}"

    def pupil(name: str, asks: str, teachers: int, *settings: str) -> Arm:
        take_part = f"phase.all.teachers={{min: {teachers}, max: {teachers}}}"
        given = (*NO_KV, *KD, *_FIXED, take_part, _decay(STUDENT_DECAY), *settings)
        return Arm(
            name, asks, settings=given, teachers=tuple(SIZES)[:teachers], pupils=True
        )

    first = next(iter(SIZES))
    return (
        Arm(
            CE_ONLY,
            f"the baseline, under a weight decay of {STUDENT_DECAY:g}",
            settings=(_decay(STUDENT_DECAY),),
            teachers=(),
        ),
        *(
            Arm(
                f"ce-longer-{times}",
                f"the baseline for {times} times the steps",
                settings=(_decay(STUDENT_DECAY),),
                teachers=(),
                stretch=times,
            )
            for times in (2, 4)
        ),
        *(
            Arm(
                f"ce-decay-{weight:g}",
                f"the baseline under a weight decay of {weight:g}",
                settings=(_decay(weight),),
                teachers=(),
            )
            for weight in DECAYS
            if weight != STUDENT_DECAY
        ),
        *(
            Arm(
                f"large-decay-{weight:g}",
                f"the first teacher under a weight decay of {weight:g}",
                settings=(large(first), _decay(weight)),
                teachers=(),
                apart=APART,
            )
            for weight in DECAYS
            if weight != TEACHER_DECAY
        ),
        *(
            Arm(
                name,
                "{} layers, {} wide, inside {}".format(*size),
                settings=(large(name), _decay(TEACHER_DECAY)),
                teachers=(),
                apart=APART * (1 + number),
            )
            for number, (name, size) in enumerate(SIZES.items())
        ),
        pupil("from-1", "outputs of the first teacher", 1),
        pupil("from-2", "outputs of two teachers", 2),
        pupil("from-4", "outputs of all teachers", 4),
        pupil(
            "from-4-alone",
            "outputs of all teachers without the next token",
            4,
            "phase.all.loss.delta_ce=0",
        ),
        pupil(
            "from-4-heavy",
            "outputs of all teachers, four times as heavy",
            4,
            "phase.all.output.kd=4",
        ),
        pupil(
            "from-4-decay",
            "outputs of all teachers, weight decay as by default",
            4,
            _decay(DECAYS[0]),
        ),
    )
