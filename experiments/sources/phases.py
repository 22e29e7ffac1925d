"""Which teachers a phase has where some come from earlier phases, and how some move."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from align.support.stopwatch import whole
from align.views import Teacher
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config, PhaseConfig
from student.output_config import OUTPUT_TERMS
from student.terms.key_value import chosen_terms
from teacher.live_teacher import LiveTeacher
from teacher.sources.base import Opening, PhaseStart, TeacherSource
from teacher.sources.peers import Peer
from teacher.sources.stored import Stored
from teacher.teacher_rule import TeacherFacts, too_few

STUDENT = "student"
"""What peers call the run's own, their teacher."""


def with_present(
    config: Config,
    phases: Sequence[PhaseConfig],
    sources: Mapping[str, TeacherSource],
) -> list[PhaseConfig]:
    """The phases, each without the teachers that are not there yet.

    Raises:
        ConfigError: a phase names such a teacher, or has too few without it; or one
            moves with a student whose weights are parted, or is to learn where it
            cannot.
    """
    _check_whole(config, phases, sources)
    _check_peers(config, phases, sources)
    _check_stored(config, sources)
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
            "which moves with the student's weights after every step, and "
            "train.zero_stage=3 parts these over processes; set train.zero_stage=2 "
            "or less"
        )


def _check_peers(
    config: Config,
    phases: Sequence[PhaseConfig],
    sources: Mapping[str, TeacherSource],
) -> None:
    """See that students beside the run's own can be trained, and learn from it."""
    peers = [name for name, source in sources.items() if isinstance(source, Peer)]
    if not peers:
        return
    place = f"teachers.{peers[0]}.model is {config.teachers[peers[0]].model!r}"
    train, store = phases[0].train, config.store
    if STUDENT in peers:
        raise ConfigError(
            f"teachers.{STUDENT} is a peer, and {STUDENT} is what peers call the run's "
            "own; give it another name"
        )
    refused = (
        ("train.fp16", "train.bf16=true, or leave it out", train.fp16),
        (
            "train.optimizer=adamw_8bit",
            "train.optimizer=adamw",
            train.optimizer == "adamw_8bit",
        ),
        (
            "store.form=fused, where all teachers are one that stands still",
            "store.form=raw, or store.read=false",
            bool(store.read) and store.form == "fused",
        ),
        (
            "store.read names it, as if it stood still",
            "store.read to the teachers that are stored",
            isinstance(store.read, list) and bool({*store.read} & {*peers}),
        ),
    )
    for what, instead, holds in refused:
        if holds:
            raise ConfigError(
                f"{place}, which trains beside the student, and does not go with "
                f"{what}; set {instead}"
            )
    for phase in phases:
        most = phase.rule.max
        all_of_them = most is None or len(phase.teachers) <= most
        some = phase.rule.names or (phase.teachers if all_of_them else ())
        kinds = {t.kind for t in chosen_terms(phase.loss, phase.output).values()}
        if {*some} & {*peers} and not kinds & {*OUTPUT_TERMS}:
            raise ConfigError(
                f"{place}, and phase {phase.name!r} has no term on next-token outputs, "
                "by which it would learn from the student; set output.kd=1 where both "
                "have one vocabulary, output.projected_kl=1 where not"
            )


def _check_stored(config: Config, sources: Mapping[str, TeacherSource]) -> None:
    """See that no teacher is to be read from two stores."""
    store = config.store
    for name, source in sources.items():
        if not (store.read and isinstance(source, Stored)):
            continue
        place = f"teachers.{name}.model is {config.teachers[name].model!r}"
        if store.form == "fused":
            raise ConfigError(
                f"{place}, and with store.form=fused all teachers are one; set "
                "store.read=false, or leave that teacher out"
            )
        if isinstance(store.read, list) and name in store.read:
            raise ConfigError(
                f"{place}, a store of its own, and store.read names it, too; leave it "
                "out of store.read, which is for teachers in store.dir"
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
        with whole("moving"):
            for name, source in self.sources.items():
                source.after_step(self.teachers[name], self.student, step)

    @property
    def asked(self) -> Collection[str]:
        """All of them."""
        return self.teachers.keys()

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Weights and buffers of their models, but of those that are trained."""
        return {
            f"{name}/{key}": tensor
            for name, teacher in self.teachers.items()
            if isinstance(teacher, LiveTeacher)
            and not isinstance(self.sources[name], Peer)
            and teacher.loaded.model is not self.student  # which is kept anyhow
            for key, tensor in _state(teacher.loaded.model)
        }


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Each tensor once, though two names may share it."""
    return [*model.named_parameters(), *model.named_buffers()]
