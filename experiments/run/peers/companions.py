"""The peers of a phase: made as it begins, stepped, measured and left in its folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.errors import prefix_errors
from align.support.stopwatch import whole
from align.views import Teacher
from experiments.assemble.fingerprint import model_files
from experiments.assemble.models import Models
from experiments.assemble.teaching import check_phase
from experiments.run.context import PhasePosition, RunContext, Stage, phase_seed
from experiments.run.evaluation import evaluate
from experiments.run.peers.learner import Learner
from experiments.run.peers.lesson import lesson_of
from experiments.run.peers.lessons import peer_lesson, peers_of, without
from experiments.sources.phases import STUDENT, Followers
from plugins.registry import Registry
from student.checkpoint import export_student, refuse_non_finite
from student.fitting import fit_terms
from student.loop.batches import BatchMaker
from student.loop.data_order import Ordering, Writing
from student.loop.job import Companions
from student.loop.non_finite import BadSteps
from teacher.loading.vouched import PEERS
from teacher.names import PEER
from teacher.packages.notices import licence_notices
from teacher.sources.peers import Peer
from teacher.trained_teacher import TrainedTeacher


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Peers:
    """A phase's peers, after whoever else moves; see
    :class:`student.loop.job.Companions`."""

    run: RunContext
    position: PhasePosition
    phase: str
    learners: Sequence[Learner]
    """In the phase's order: each learns from what those before it have become."""
    followers: Followers

    def after_step(self, step: int) -> None:
        """Let all others move, and each peer take its step."""
        self.followers.after_step(step)
        for learner in self.learners:
            with whole("peers"):
                line = learner.step(step)
            if line is not None:
                write = self.run.metrics.write
                write(self.position.arm, self.phase, line, self.position.offset)

    @property
    def asked(self) -> Collection[str]:
        """See :class:`student.loop.job.Companions`."""
        return self.followers.asked

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All that peers have learned, and their moments."""
        return {**self.followers.tensors} | {
            f"{PEERS}/{learner.name}/{key}": tensor
            for learner in self.learners
            for key, tensor in learner.tensors.items()
        }

    def measured(self) -> dict[str, Any]:
        """``peers``: bits per character of each, by domain, as of the student."""
        bits = {}
        for learner in self.learners:
            learner.distiller.eval()
            model: Any = learner.teacher.loaded.model
            whose = f"the peer {learner.name!r} of phase {self.phase!r}"
            refuse_non_finite(model.named_parameters(), whose)
            title = f"measuring {self.position.arm} · {self.phase} · {learner.name}"
            capture = learner.teacher.capture
            bits[learner.name] = {
                "bpc": evaluate(self.run, capture, title, learner.encode)
            }
        return {PEERS: bits}

    def save(self, folder: Path) -> None:
        """Leave all in a phase's folder, each as plain transformers loads it."""
        for learner in self.learners:
            loaded = learner.teacher.loaded
            model = self.run.config.teachers[learner.name].model.removeprefix(PEER)
            notices = licence_notices(model_files(model))
            where = folder / PEERS / learner.name
            export_student(loaded.model, loaded.tokenizer, where, notices)


def moving_of(
    run: RunContext,
    stage: Stage,
    position: PhasePosition,
    student: TrainedTeacher,
    *,
    writing: Writing | None,
    order: Ordering | None = None,
) -> Companions | None:
    """What moves with the student in a phase, peers among it; None where nothing does.

    Args:
        run: what all arms share; its teachers are those of the phase.
        stage: the phase.
        position: where it stands.
        student: that trains, as it teaches peers.
        writing: stands in for some of the texts, for peers too.
        order: says which texts are read, by peers too.
    """
    teachers = run.models.chosen(stage.teachers)
    model: Any = student.loaded.model
    followers = Followers.of(run.models.sources, teachers, model)
    peers = peers_of(run.models, stage)
    if followers is None or not peers:
        return followers
    with torch.random.fork_rng(devices=[]):
        learners = [
            _learner(run, stage, position, peer, student, writing=writing, order=order)
            for peer in peers.values()
        ]
    return Peers(
        run=run,
        position=position,
        phase=stage.phase.name,
        learners=learners,
        followers=followers,
    )


def check_peers(models: Models, registry: Registry, stage: Stage) -> None:
    """See, before any work, that a phase's peers can learn from the student and each
    other.

    Raises:
        InputError: what the student may not learn from either, see
            :func:`experiments.assemble.teaching.check_phase`; names the peer.
    """
    peers = peers_of(models, stage)
    for name, peer in peers.items():
        chosen = models.chosen(stage.teachers)
        lesson = lesson_of(stage.phase, name, list(peers), chosen)
        student = models.making(name).itself()
        teachers: dict[str, Teacher] = {STUDENT: student, **without(peers, name)}
        with prefix_errors(f"the peer {name!r}, as a student of it"):
            check_phase(lesson, registry, peer.sizes, teachers, peer.tokenizer)


def _learner(
    run: RunContext,
    stage: Stage,
    position: PhasePosition,
    peer: TrainedTeacher,
    student: TrainedTeacher,
    *,
    writing: Writing | None,
    order: Ordering | None,
) -> Learner:
    """A peer with all that it learns from, calibrated as it stands."""
    train, config = stage.phase.train, run.config
    source = run.models.sources[peer.name]
    assert isinstance(source, Peer)  # by how peers are chosen
    rate = source.learning_rate or train.learning_rate
    model: Any = peer.loaded.model
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    lesson = peer_lesson(
        run.models,
        run.registry,
        stage,
        peer,
        student,
        calibration=run.data.calibration,
        learned=run.data.train,
        learn_end=config.data.learn_end,
        steps=position.steps,
        seed=phase_seed(config.run.seed, position.index),
        progress=run.progress.over,
    )
    faculty, distiller = lesson.faculty, lesson.distiller
    fit_terms(distiller, lambda title: faculty.sample(title, distiller.compared_rows))
    maker = BatchMaker(
        samples=run.data.train,
        encode=lesson.encode,
        views=faculty.panel,
        seed=config.run.seed,
        rows=distiller.compared_rows,
        batch_size=train.batch_size,
        first_sample=position.first_sample,
        device=run.engine.device,
        rank=run.engine.rank,
        world_size=run.engine.world_size,
        survey=distiller.survey,
        instead=None if writing is None else writing.in_place_of,
        chosen=None if order is None else order.indices,
    )

    def log(line: dict[str, Any]) -> None:
        line = {**line, "peer": peer.name}
        run.metrics.write(position.arm, stage.phase.name, line, position.offset)

    return Learner.of(
        peer,
        distiller,
        maker,
        run.engine,
        config=replace(lesson.phase.train, learning_rate=rate),
        encode=lesson.encode,
        bad=BadSteps(engine=run.engine, log=log, may_overflow=False),
    )
