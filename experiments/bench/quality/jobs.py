"""Work through the quality testbed's runs, several at once, each with a log."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

from align.errors import InputError
from experiments.bench.quality.arm import Arm
from experiments.bench.quality.matching.texts import make_text
from experiments.bench.quality.train import (
    Setup,
    adapt_teacher,
    adapted_otherwise,
    store_teacher,
    train_arm,
    trained_otherwise,
)
from experiments.record.progress import Progress


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do, unless its result is there."""

    name: str
    work: Callable[..., None]
    arguments: tuple[object, ...]
    result: Path

    @property
    def log(self) -> Path:
        """What the work prints."""
        return self.result.with_suffix(".log")


def work_through(
    bed: Setup,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    jobs: int,
    budget: float = math.inf,
) -> dict[str, str]:
    """Adapt teachers, store what they read, make what else is read, then train every
    arm from every seed.

    What has a result is not done again; what fails does not stop the rest.

    Args:
        bed: what all arms share.
        arms: what is trained; a whole table for one seed comes before the next seed.
        seeds: of the students.
        jobs: processes at once.
        budget: processor seconds; nothing is begun once what was finished in this call
            took as much.

    Returns:
        What failed: name -> the error and where its log is.

    Raises:
        InputError: an arm was trained under other settings, which the table would
            compare with this one's.
    """
    _check_alike(bed, arms, seeds)
    names = dict.fromkeys(t for arm in arms if arm.stored for t in arm.teachers)
    adapting = [
        Task(f"adapt {name}", adapt_teacher, (bed, name), bed.adapting(name))
        for name in dict.fromkeys(t for arm in arms for t in arm.adapted)
    ]
    reading = [
        Task(f"store {name}", store_teacher, (bed, name), bed.reading(name))
        for name in names
    ]
    making = [
        Task(f"text {name}", make_text, (bed.texts, name), bed.making(name))
        for name in dict.fromkeys(text for arm in arms for text in arm.reads)
    ]
    # A teacher must be there before it is asked, and a store whole before it is read.
    stages = [
        [task for task in stage if not task.result.is_file()]
        for stage in (adapting, reading, making, *_training(bed, arms, seeds))
    ]
    count = sum(map(len, stages))
    failed: dict[str, str] = {}
    if not count:
        return failed
    with (
        Progress().work("quality", count) as show,
        ProcessPoolExecutor(min(jobs, count), get_context("spawn"), _warm) as pool,
    ):
        done, spent = 0, 0.0
        try:
            for stage in stages:
                waiting, running = list(stage), dict[Future[None], Task]()
                while running or (waiting and spent < budget):
                    while waiting and len(running) < jobs and spent < budget:
                        task = waiting.pop(0)
                        running[pool.submit(_logged, task)] = task
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        task = running.pop(future)
                        _note(task, future, failed)
                        spent += _seconds(task)
                        done += 1
                        show(done)
        except KeyboardInterrupt:  # runs that have begun save and leave
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _check_alike(bed: Setup, arms: Sequence[Arm], seeds: Sequence[int]) -> None:
    for teacher in dict.fromkeys(name for arm in arms for name in arm.adapted):
        changed = adapted_otherwise(bed, teacher)
        if changed:
            raise InputError(
                f"{bed.adapting(teacher)} was adapted under other settings: "
                f"{'; '.join(changed)}. Give another --out, the settings it had, or "
                "delete that file"
            )
    for arm in arms:
        for seed in seeds:
            result = bed.result(arm, seed)
            changed = trained_otherwise(bed, arm, seed) if result.is_file() else []
            if changed:
                shown = "; ".join(changed[:5]) + ("; …" if len(changed) > 5 else "")
                raise InputError(
                    f"{result} was trained under other settings: {shown}. Give another "
                    f"--out, the settings it had, or delete {result.parent}"
                )


def _training(
    bed: Setup, arms: Sequence[Arm], seeds: Sequence[int]
) -> list[list[Task]]:
    """Arms whose students teach others, and then all others, seed by seed."""
    teach = {name for arm in arms if arm.pupils for name in arm.teachers}
    stages: list[list[Task]] = []
    for first in (True, False):
        stages.append(
            [
                Task(
                    f"{arm.name}, seed {seed}",
                    train_arm,
                    (bed, arm, seed),
                    bed.result(arm, seed),
                )
                for seed in seeds
                for arm in arms
                if (arm.name in teach) == first
            ]
        )
    return stages


def _seconds(task: Task) -> float:
    """Of the processor, that a task took; 0 for one that failed."""
    if not task.result.is_file():
        return 0.0
    return float(json.loads(task.result.read_text(encoding="utf-8"))["cpu_s"])


def _note(task: Task, future: Future[None], failed: dict[str, str]) -> None:
    error = future.exception()
    if error is not None:
        words = str(error) or type(error).__name__
        failed[task.name] = f"{words} ({task.log})"
        print(f"{task.name} failed: {failed[task.name]}", file=sys.stderr)


def _warm() -> None:
    """Read what every run needs once, so that no run pays for it."""
    import torch

    from teacher.zoo import zoo_samples

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    zoo_samples("prose", "student")


def _end_with_parent() -> None:
    """End this process at once where its parent was killed, and could not say so."""
    parent = parent_process()
    assert parent is not None, "a pool's process has one"
    parent.join()
    os._exit(1)  # what is finished has its result, and runs go on from checkpoints


def _logged(task: Task) -> None:
    """Do one task with everything it prints in its log."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    with task.log.open("a") as log:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            task.work(*task.arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
