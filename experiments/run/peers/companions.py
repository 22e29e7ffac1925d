"""The peers of a phase: made as it begins, stepped, measured and left in its folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.errors import prefix_errors
from align.views import Teacher
from experiments.assemble.checks import timetable_of
from experiments.assemble.data import Encoder
from experiments.assemble.fingerprint import model_files
from experiments.assemble.models import Models
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.precision import autocast_of
from experiments.assemble.teaching import (
    build_objectives,
    build_phase_teachers,
    check_phase,
)
from experiments.run.context import PhasePosition, RunContext, Stage
from experiments.run.evaluation import evaluate
from experiments.run.peers.learner import Learner
from experiments.run.peers.lesson import lesson_of
from experiments.sources.phases import STUDENT, Followers
from plugins.registry import Registry
from student.checkpoint import export_student, refuse_non_finite
from student.distiller import Distiller
from student.fitting import fit_terms
from student.loop.batches import BatchMaker
from student.loop.data_order import Writing
from student.loop.job import Companions
from student.loop.non_finite import BadSteps
from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import LoadedModel
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
) -> Companions | None:
    """What moves with the student in a phase, peers among it; None where nothing does.

    Args:
        run: what all arms share; its teachers are those of the phase.
        stage: the phase.
        position: where it stands.
        student: that trains, as it teaches peers.
        writing: stands in for some of the texts, for peers too.
    """
    teachers = run.models.chosen(stage.teachers)
    model: Any = student.loaded.model
    followers = Followers.of(run.models.sources, teachers, model)
    peers = _peers(run.models, stage)
    if followers is None or not peers:
        return followers
    make = partial(_learner, run, stage, position, writing=writing)
    with torch.random.fork_rng(devices=[]):
        learners = [
            make(peer, {STUDENT: student, **_without(peers, peer.name)})
            for peer in peers.values()
        ]
    return Peers(
        run=run,
        position=position,
        phase=stage.phase.name,
        learners=learners,
        followers=followers,
    )


def teaching_student(models: Models, model: Any, capture: KVCapture) -> TrainedTeacher:
    """The student of a phase, as peers meet it."""
    loaded = LoadedModel(model, models.student_tokenizer, "decoder", STUDENT)
    return TrainedTeacher(STUDENT, loaded, capture)


def check_peers(models: Models, registry: Registry, stage: Stage) -> None:
    """See, before any work, that a phase's peers can learn from the student and each
    other.

    Raises:
        InputError: what the student may not learn from either, see
            :func:`experiments.assemble.teaching.check_phase`; names the peer.
    """
    peers = _peers(models, stage)
    for name, peer in peers.items():
        chosen = models.chosen(stage.teachers)
        lesson = lesson_of(stage.phase, name, list(peers), chosen)
        student = models.making(name).itself()
        teachers: dict[str, Teacher] = {STUDENT: student, **_without(peers, name)}
        with prefix_errors(f"the peer {name!r}, as a student of it"):
            check_phase(lesson, registry, peer.sizes, teachers, peer.tokenizer)


def _peers(models: Models, stage: Stage) -> dict[str, TrainedTeacher]:
    chosen = models.chosen(stage.teachers)
    return {
        name: teacher
        for name, teacher in chosen.items()
        if isinstance(teacher, TrainedTeacher)
        and isinstance(models.sources[name], Peer)
    }


def _without(
    peers: Mapping[str, TrainedTeacher], name: str
) -> dict[str, TrainedTeacher]:
    return {other: peer for other, peer in peers.items() if other != name}


def _learner(
    run: RunContext,
    stage: Stage,
    position: PhasePosition,
    peer: TrainedTeacher,
    teachers: Mapping[str, Teacher],
    *,
    writing: Writing | None,
) -> Learner:
    """A peer with all that it learns from, calibrated as it stands."""
    every = run.models.chosen(stage.teachers)
    names = list(_peers(run.models, stage))
    phase = lesson_of(stage.phase, peer.name, names, every)
    source = run.models.sources[peer.name]
    assert isinstance(source, Peer)  # by how peers are chosen
    rate = source.learning_rate or phase.train.learning_rate
    model: Any = peer.loaded.model
    if phase.train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    encode = Encoder(peer.tokenizer, peer.capture.max_tokens, run.config.data.learn_end)
    timetable = timetable_of(phase, run.registry, position.steps)
    faculty = build_phase_teachers(
        phase,
        registry=run.registry,
        student=peer.capture,
        encode=encode,
        teachers=teachers,
        shares=dict.fromkeys(teachers, 1.0),
        samples=run.data.calibration,
        progress=run.progress.over,
        timetable=timetable,
    )
    distiller = Distiller(
        model,
        peer.capture,
        objectives=build_objectives(phase, run.registry, True),
        config=phase.loss,
        teaching=faculty.teaching,
        autocast=autocast_of(phase.train),
        output=output_plan(phase, run.registry, peer.capture, peer.tokenizer, teachers),
        head=own_head(phase, peer.capture),
        timetable=timetable,
        domains=sorted({sample.domain for sample in run.data.train}),
    )
    fit_terms(distiller, lambda title: faculty.sample(title, distiller.compared_rows))
    maker = BatchMaker(
        samples=run.data.train,
        encode=encode,
        views=faculty.panel,
        seed=run.config.run.seed,
        rows=distiller.compared_rows,
        batch_size=phase.train.batch_size,
        first_sample=position.first_sample,
        device=run.engine.device,
        rank=run.engine.rank,
        world_size=run.engine.world_size,
        survey=distiller.survey,
        instead=None if writing is None else writing.in_place_of,
    )

    def log(line: dict[str, Any]) -> None:
        line = {**line, "peer": peer.name}
        run.metrics.write(position.arm, stage.phase.name, line, position.offset)

    return Learner.of(
        peer,
        distiller,
        maker,
        run.engine,
        config=replace(phase.train, learning_rate=rate),
        encode=encode,
        bad=BadSteps(engine=run.engine, log=log, may_overflow=False),
    )
