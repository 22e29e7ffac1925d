"""What each process of a launch with ``train.teacher_ranks`` does: train, or answer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch

from align.errors import MachineError
from align.foreign.quote import say
from align.products.primitive_cache import bound_primitive_caches
from align.rope_scale import Rescale
from align.support.quiet import quiet_libraries
from experiments.config.tree import Config
from experiments.sources.distant import Distant, homes, movable
from experiments.sources.making import Making
from student.config import TrainConfig
from student.loop.launch import Parting, patience_of
from teacher.distant.serving import answer_all
from teacher.distant.wire import Group, Line, LineGoneError
from teacher.live_teacher import LiveTeacher
from teacher.sources.base import TeacherSource
from teacher.teacher_config import TeacherConfig

_PATIENCE = timedelta(hours=1)
"""How long a process that trains waits for one answer; loading is one, too."""
_SIGNS = 6
"""How often one that trains says that it is there while a process with teachers waits
for a sign of it: it may ask nothing for hours, as while a student learns alone."""


@contextmanager
def among_students(
    parting: Parting,
    config: Config,
    sources: Mapping[str, TeacherSource],
    train: TrainConfig,
) -> Iterator[Distant]:
    """Train, inside this block, with the teachers of other ranks.

    Args:
        parting: of the launch; this process trains.
        config: the run.
        sources: of its teachers.
        train: of its phases, alike in what this reads.

    Raises:
        MachineError: the other ranks do not come.
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
        every = patience_of(train.engine) / _SIGNS
        with parting.among_students(), _heard_of(lines.values(), every):
            yield Distant(homes=asked_of, lines=lines)
    finally:
        for line in lines.values():
            with suppress(LineGoneError):
                line.leave()


def answer_students(parting: Parting, train: TrainConfig, scaler: Rescale) -> None:
    """Hold teachers and answer, until all processes that train have left, or nothing is
    heard of them for as long as they wait for each other.

    Signals that ask a run to stop are for those that train: they save, and leave.

    Args:
        parting: of the launch; this process holds teachers.
        train: its threads and types.
        scaler: from ``align.rope_scaling_method``.

    Raises:
        MachineError: the other ranks do not come.
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

    group = _joined(parting, patience_of(train.engine))
    with _signals_ignored():
        lines = [Line(group, rank) for rank in range(parting.students)]
        for rank, error in sorted(answer_all(lines, opened, scaler).items()):
            gone = f"process {rank}, which trains, is gone"
            say(f"process {parting.rank}: {gone}: {error}")


def _no_student(*_: Any) -> Any:
    raise AssertionError("no teacher of these ranks is made of the student")


def _joined(parting: Parting, patience: timedelta) -> Group:
    """A group of all processes, beside the one in which those that train are.

    Raises:
        MachineError: not all of them come.
    """
    import torch.distributed as dist

    world, store = parting.students + parting.teachers, parting.store()
    lines = dist.PrefixStore("lines", store)  # type: ignore[attr-defined]
    try:
        group: Any = dist.ProcessGroupGloo(  # type: ignore[attr-defined]
            lines, parting.rank, world, patience
        )
    except RuntimeError as error:  # gloo and stores have several types of their own
        raise MachineError(
            f"process {parting.rank} waited up to {patience} (hours:minutes:seconds) "
            f"for all {world} processes of the launch, and they did not meet "
            f"({str(error).splitlines()[0]}); see the others' own output"
        ) from error
    return group  # type: ignore[no-any-return]


@contextmanager
def _heard_of(lines: Iterable[Line], every: timedelta) -> Iterator[None]:
    """Say at the other ends, inside this block, that this one is there."""
    over, lines = threading.Event(), list(lines)

    def greet() -> None:
        while not over.wait(every.total_seconds()):
            for line in lines:
                with suppress(LineGoneError):  # who asks next is told
                    line.greet()

    threading.Thread(target=greet, daemon=True, name="greeting").start()
    try:
        yield
    finally:
        over.set()


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
