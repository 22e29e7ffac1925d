"""What each process of a launch with ``train.teacher_ranks`` does: train, or answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch

from align.foreign.quote import say
from align.rope_scale import Rescale
from align.support.primitive_cache import bound_primitive_caches
from align.support.quiet import quiet_libraries
from experiments.config.tree import Config
from experiments.sources.distant import Distant, homes, movable
from experiments.sources.making import Making
from student.config import TrainConfig
from student.loop.launch import Parting
from teacher.distant.serving import answer_all
from teacher.distant.wire import Group, Line, LineGoneError
from teacher.live_teacher import LiveTeacher
from teacher.sources.base import TeacherSource
from teacher.teacher_config import TeacherConfig

_PATIENCE = timedelta(hours=1)
"""How long a process that trains waits for one answer; loading is one, too."""
_ANY_TIME = timedelta(days=365)
"""How long a process with teachers waits for the next question."""


@contextmanager
def among_students(
    parting: Parting, config: Config, sources: Mapping[str, TeacherSource]
) -> Iterator[Distant]:
    """Train, inside this block, with the teachers of other ranks.

    Args:
        parting: of the launch; this process trains.
        config: the run.
        sources: of its teachers.

    Raises:
        InputError: the launcher started too many or too few processes.
    """
    asked_of = homes(movable(config, sources), parting, parting.rank)
    group = _joined(parting, _PATIENCE)
    world = parting.students + parting.teachers
    lines = {rank: Line(group, rank) for rank in range(parting.students, world)}
    if parting.rank == 0:
        for rank in lines:
            there = [name for name, home in asked_of.items() if home == rank]
            say(f"process {rank} holds {', '.join(there) or 'teachers of others'}")
    try:
        with parting.among_students():
            yield Distant(homes=asked_of, lines=lines)
    finally:
        for line in lines.values():
            with suppress(LineGoneError):
                line.leave()


def answer_students(parting: Parting, train: TrainConfig, scaler: Rescale) -> None:
    """Hold teachers and answer, until all processes that train have left.

    Signals that ask a run to stop are for those that train: they save, and leave.

    Args:
        parting: of the launch; this process holds teachers.
        train: its threads and types.
        scaler: from ``align.rope_scaling_method``.
    """
    quiet_libraries()
    bound_primitive_caches()
    if train.threads:
        torch.set_num_threads(train.threads)
    if train.tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    local = int(os.environ.get("LOCAL_RANK") or "0")
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)

    def opened(asked: Mapping[str, Any]) -> LiveTeacher:
        making = Making(
            name=asked["name"],
            entry=TeacherConfig(**asked["entry"]),
            device=device,
            make_student=_no_student,
            student_tokenizer=None,
            student_kind=asked["student_kind"],
        )
        return making.load(asked["model"])

    group = _joined(parting, _ANY_TIME)
    with _signals_ignored():
        lines = [Line(group, rank) for rank in range(parting.students)]
        if gone := answer_all(lines, opened, scaler):
            say(f"process {parting.rank}: {gone} processes that train are gone")


def _no_student(*_: Any) -> Any:
    raise AssertionError("no teacher of these ranks is made of the student")


def _joined(parting: Parting, patience: timedelta) -> Group:
    """A group of all processes, beside the one in which those that train are."""
    import torch.distributed as dist

    group: Any = dist.ProcessGroupGloo(  # type: ignore[attr-defined]
        dist.PrefixStore("lines", parting.store()),  # type: ignore[attr-defined]
        parting.rank,
        parting.students + parting.teachers,
        patience,
    )
    return group  # type: ignore[no-any-return]


@contextmanager
def _signals_ignored() -> Iterator[None]:
    names = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "SIGQUIT")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
