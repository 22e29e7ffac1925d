"""Teachers on ranks of their own: which, on which rank, and how they are opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from align.errors import InputError
from experiments.config.parsing import ConfigError, plain
from experiments.config.tree import Config, PhaseConfig
from student.loop.launch import Parting
from teacher.distant.teacher import DistantTeacher, asked
from teacher.distant.wire import Line, Message
from teacher.loading.models import load_model
from teacher.names import at_commit
from teacher.sources.base import TeacherSource
from teacher.sources.files import Files, PackagedModel, ZooModel
from teacher.teacher_config import TeacherConfig


def movable(config: Config, sources: Mapping[str, TeacherSource]) -> list[str]:
    """The teachers that ranks of their own can hold: models as their files have them,
    and that no store stands for.

    A plugin's source stays: it may do anything with the models that it loads.
    """
    stored = config.store.read if isinstance(config.store.read, list) else []
    return [
        name
        for name, source in sources.items()
        if type(source) in (Files, ZooModel, PackagedModel) and name not in stored
    ]


def check_teacher_ranks(
    config: Config,
    phases: Sequence[PhaseConfig],
    sources: Mapping[str, TeacherSource],
) -> None:
    """See that ``train.teacher_ranks`` has teachers to hold, not needed elsewhere.

    Raises:
        ConfigError: what does not go with it.
    """
    if not (ranks := phases[0].train.teacher_ranks):
        return
    place, names = f"train.teacher_ranks={ranks}", movable(config, sources)
    if config.store.read is True:
        raise ConfigError(
            f"{place} and store.read=true: which teachers are left to ask shows only "
            "when the store is read; name those that are read in store.read"
        )
    if not names:
        models = ", ".join(config.teachers[name].model for name in sources) or "nobody"
        raise ConfigError(
            f"{place}, but no teacher can be on a rank of its own: those of {models} "
            "are made of the student or by a plugin, trained beside the student, read "
            "from stores or asked elsewhere; set it to 0"
        )
    for name in names:
        if config.teachers[name].shard:
            raise ConfigError(
                f"{place} and teachers.{name}.shard: a teacher is whole on a rank of "
                "its own, or split over those that train; leave one of both out"
            )
    written = config.data.written
    if written.on and not written.own and written.by in names:
        raise ConfigError(
            f"{place}, and data.written.by is {written.by!r}, which would write where "
            "the student trains; have the student write, or set train.teacher_ranks=0"
        )


def homes(names: Sequence[str], parting: Parting, student: int) -> dict[str, int]:
    """Whom a process that trains asks: ranks by the names of teachers.

    The teachers are dealt to the ranks in turn. Where ranks are left, each teacher is
    on several, which share the processes that train.

    Args:
        names: in the order of the config.
        parting: of the launch.
        student: the rank that asks.

    Raises:
        InputError: a rank would have nobody to answer.
    """
    teachers, most = parting.teachers, len(names) * parting.students
    if teachers > most:
        raise InputError(
            f"train.teacher_ranks={teachers}: {len(names)} teachers and "
            f"{parting.students} processes that train keep {most} ranks busy; set it "
            "to at most that"
        )
    asked_of = {}
    for m, name in enumerate(names):
        holding = [r for r in range(teachers) if r % len(names) == m] or [m % teachers]
        asked_of[name] = parting.students + holding[student % len(holding)]
    return asked_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Distant:
    """The teachers of other ranks, for a process that trains."""

    homes: Mapping[str, int]
    """By teacher, the rank that is asked."""
    lines: Mapping[int, Line]
    """To each rank."""

    def load(
        self,
        name: str,
        entry: TeacherConfig,
        model: str,
        device: torch.device,
        *,
        student_kind: str = "decoder",
    ) -> DistantTeacher:
        """Have a teacher loaded where it belongs.

        Args:
            name: the teacher's.
            entry: its settings.
            model: whose files are read.
            device: where its answers go.
            student_kind: or encoder-decoder, beside which one that reads pairs is
                seen from inside its decoder.

        Raises:
            MtkdError: what went wrong there.
        """
        rank = self.homes[name]
        line = self.lines[rank]
        question = {
            "what": "open",
            "key": f"{name}: {model}",
            "name": name,
            "model": at_commit(model),
            "student_kind": student_kind,
            "entry": plain(entry),
        }
        facts = asked(line, rank, Message(question)).head["facts"]
        loaded = load_model(
            model,
            role="teacher",
            dtype=None if entry.dtype == "auto" else entry.dtype,
            trust_remote_code=entry.trust_remote_code,
            attn_implementation=entry.attn_implementation,
            weightless=True,
        )
        return DistantTeacher.of(
            name,
            loaded,
            facts,
            line=line,
            rank=rank,
            device=device,
            beside_pairs=student_kind == "encoder-decoder",
        )
