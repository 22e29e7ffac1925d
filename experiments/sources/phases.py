"""Which teachers a phase has where some come from earlier phases, and how some move."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from align.views import Teacher
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config, PhaseConfig
from teacher.live_teacher import LiveTeacher
from teacher.sources.base import Opening, PhaseStart, TeacherSource
from teacher.teacher_rule import TeacherFacts, too_few


def with_present(
    config: Config,
    phases: Sequence[PhaseConfig],
    sources: Mapping[str, TeacherSource],
) -> list[PhaseConfig]:
    """The phases, each without the teachers that are not there yet.

    Raises:
        ConfigError: a phase names such a teacher, or has too few without it; or one
            moves with a student whose weights are parted.
    """
    _check_whole(config, phases, sources)
    _check_beginnings(config, phases)
    present = []
    for index, phase in enumerate(phases):
        earlier = [before.name for before in phases[:index]]
        why = {name: source.absent(earlier) for name, source in sources.items()}
        absent = tuple(name for name in sources if why[name])
        named = [name for name in phase.rule.names or () if name in absent]
        if named:
            raise ConfigError(
                f"phase.{phase.name}.teachers names {named[0]!r}, which is "
                f"{config.teachers[named[0]].model}, but {why[named[0]]}; leave it out "
                "of this phase, or change phases"
            )
        left = [name for name in phase.teachers if name not in absent]
        if len(left) < phase.rule.min and len(left) < len(phase.teachers):
            facts = {
                name: TeacherFacts(kind=config.teachers[name].model, family="")
                for name in left
            }
            raise ConfigError(
                f"{too_few(phase.rule, phase.name, left, facts)}; 0 trains it by "
                f"cross-entropy alone: {', '.join(absent)} come from earlier phases"
            )
        present.append(replace(phase, teachers=left, absent=absent))
    return present


def _check_whole(
    config: Config,
    phases: Sequence[PhaseConfig],
    sources: Mapping[str, TeacherSource],
) -> None:
    moving = [name for name, source in sources.items() if source.moves]
    train = phases[0].train
    if moving and train.engine == "deepspeed" and train.zero_stage == 3:
        raise ConfigError(
            f"teachers.{moving[0]}.model is {config.teachers[moving[0]].model!r}, "
            "which follows the student's weights after every step, and "
            "train.zero_stage=3 parts these over processes; set train.zero_stage=2 "
            "or less"
        )


def _check_beginnings(config: Config, phases: Sequence[PhaseConfig]) -> None:
    """See that weights can be drawn anew where a phase asks for it."""
    student = config.student
    for phase in phases:
        if phase.begins != "anew":
            continue
        place = f"phase.{phase.name}.begins is anew"
        if student.init != "fresh":
            raise ConfigError(
                f"{place}, but the student's weights are those of its checkpoint; set "
                "student.init=fresh, or begins=start to train these again"
            )
        if student.lora.rank:
            raise ConfigError(
                f"{place}, but student.lora trains updates of one model; set "
                "begins=start, or student.lora.rank=0"
            )


def moving_warnings(sources: Mapping[str, TeacherSource]) -> list[str]:
    """A sentence on each teacher that moves: what it is, and when it is asked."""
    return [
        f"teacher {name!r} is {source.says}; train.prefetch reads ahead of the others "
        "alone"
        for name, source in sources.items()
        if source.moves
    ]


def begin_teachers(
    sources: Mapping[str, TeacherSource],
    names: Iterable[str],
    start: PhaseStart,
    *,
    making: Callable[[str], Opening],
    place: Callable[[Teacher], None],
) -> None:
    """Make those of a phase's teachers that it has of its own, as it begins.

    Nothing that is drawn at random in the phase depends on it.

    Args:
        sources: of the run's teachers.
        names: the phase's.
        start: where its arm stands.
        making: what each source is given.
        place: takes a teacher that was made.
    """
    with torch.random.fork_rng(devices=[]):
        for name in names:
            made = sources[name].begin(making(name), start) if name in sources else None
            if made is not None:
                place(made)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Followers:
    """The teachers of a phase that move; see :class:`student.loop.job.Companions`."""

    sources: Mapping[str, TeacherSource]
    """Of these teachers, by name."""
    teachers: Mapping[str, Teacher]
    student: nn.Module

    @staticmethod
    def of(
        sources: Mapping[str, TeacherSource],
        teachers: Mapping[str, Teacher],
        student: nn.Module,
    ) -> Followers | None:
        """Those of a phase's teachers that move; None where none does."""
        moving = {n: sources[n] for n in teachers if n in sources and sources[n].moves}
        if not moving:
            return None
        followed = {name: teachers[name] for name in moving}
        return Followers(sources=moving, teachers=followed, student=student)

    def after_step(self, step: int) -> None:
        """Move all of them."""
        for name, source in self.sources.items():
            source.after_step(self.teachers[name], self.student, step)

    @property
    def asked(self) -> Collection[str]:
        """All of them."""
        return self.teachers.keys()

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Weights and buffers of their models."""
        return {
            f"{name}/{key}": tensor
            for name, teacher in self.teachers.items()
            if isinstance(teacher, LiveTeacher)
            and teacher.loaded.model is not self.student  # which is kept anyhow
            for key, tensor in _state(teacher.loaded.model)
        }


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Each tensor once, though two names may share it."""
    return [*model.named_parameters(), *model.named_buffers()]
