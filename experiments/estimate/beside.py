"""What goes on beside a student's own step: the steps of peers, and texts written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from align.support.process_memory import give_back
from experiments.estimate.steps import (
    FLOAT,
    Lesson,
    batch_of,
    growth,
    learn,
    moments,
    seconds_of,
    some_steps,
    trained_numbers,
)
from experiments.estimate.trial import Trial, held_bytes
from experiments.run.context import Stage
from experiments.run.peers.lessons import peer_lesson, peers_of, teaching_student
from experiments.run.phase_texts import Span, buffer_of
from experiments.writing.buffer import Processes
from experiments.writing.writer import AT_ONCE
from teacher.capture.pair_capture import capture_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """Of one phase."""

    peers: dict[str, float]
    """Seconds of one pass of each peer, by name."""
    held: int
    """Bytes of what peers learn by: bridges, gradients and moments, whole in every
    process; their weights are teachers'."""
    most: int
    """Bytes that are held for a while, when the student's pass is over: by a peer's, or
    by writing, whichever takes more."""
    writing: float
    """Seconds in which texts are written for one pass, on the mean."""

    def lines(self, activations: int) -> dict[str, int]:
        """Memory by what it is for, where there is any.

        Args:
            activations: bytes that a pass of the student holds, which are free again.
        """
        lines = {
            "bridges, gradients and optimisers of peers": self.held,
            "a peer's pass, or writing, beyond the student's": self.most - activations,
        }
        return {what: size for what, size in lines.items() if size > 0}


def measured_beside(
    trial: Trial, stage: Stage, lesson: Lesson, processes: int = 1
) -> Beside:
    """Take two steps of each peer of a phase, and have a batch of texts written.

    Args:
        trial: the config's models and texts.
        stage: the phase.
        lesson: its student, ready for a step.
        processes: that train together; each writes its part.
    """
    student = lesson.distiller.student
    seconds, held, most = {}, 0, 0
    for name in peers_of(trial.models, stage):
        seconds[name], kept, moment = _of_peer(trial, stage, name, student)
        held, most = held + kept, max(most, moment)
    writing, moment = _of_writing(trial, stage, student)
    return Beside(
        peers=seconds,
        held=held,
        most=max(most, moment),
        writing=writing / processes,
    )


def _of_peer(
    trial: Trial, stage: Stage, name: str, student: Any
) -> tuple[float, int, int]:
    """Seconds of a pass, bytes that stay, and bytes for the time of a pass."""
    peer = peers_of(trial.models, stage)[name]
    train, model = stage.phase.train, peer.loaded.model
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    made = peer_lesson(
        trial.models,
        trial.registry,
        stage,
        peer,
        teaching_student(trial.models, student, capture_of(student)),
        calibration=trial.calibration,
        learned=trial.usual,
        learn_end=trial.config.data.learn_end,
        steps=train.steps or 1,
        progress=lambda items, title, total: items,
    )
    taught = Lesson(made.distiller.train(), made.faculty)
    batch, rows = batch_of(made.phase, made.encode, trial.longest, trial.device)
    numbers = trained_numbers(taught.distiller)
    give_back()
    with growth(trial.device) as steps:
        views = taught.views(batch, rows)
        some_steps(taught, batch=batch, views=views, rows=rows, ahead=False)
    batch, rows = batch_of(made.phase, made.encode, trial.usual, trial.device)
    seconds = seconds_of(
        lambda: learn(taught.distiller, batch, taught.views(batch, rows), rows, 0)
    )
    gradients = FLOAT * numbers
    bridge = held_bytes(taught.distiller) - held_bytes(model)
    taught.distiller.eval()
    kept = bridge + gradients + moments(train, numbers)
    return seconds, kept, max(0, steps.most - gradients)


def _of_writing(trial: Trial, stage: Stage, student: Any) -> tuple[float, int]:
    """Seconds for one pass in one process, on the mean, and bytes meanwhile."""
    written, train = trial.config.data.written, stage.phase.train
    if not written.on or not stage.teachers:
        return 0.0, 0
    texts_per_step = train.batch_size * train.grad_accum
    wanted = written.share * texts_per_step * written.every
    once = min(wanted, written.texts or wanted, AT_ONCE)
    config = replace(
        trial.config,
        data=replace(
            trial.config.data,
            written=replace(
                written, every=ceil(once / (written.share * texts_per_step))
            ),
        ),
    )
    buffer = buffer_of(
        config,
        trial.registry,
        trial.models,
        stage,
        student,
        samples=trial.usual,
        span=Span(
            seed=0,
            first_sample=0,
            texts_per_step=texts_per_step,
            steps=config.data.written.every,
        ),
        processes=Processes(rank=0, count=1, gather=lambda mine: [mine]),
    )
    give_back()
    with growth(trial.device) as moment:
        started = time.perf_counter()
        count = buffer.write(0)["texts"]
        spent = time.perf_counter() - started
    begun = min(wanted, written.texts or wanted)
    passes = written.every * train.grad_accum
    return spent / max(1, count) * begun / passes, moment.most
