"""A phase's peers, each with all that it learns from, as they stand when it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.text.documents import TextSample
from align.views import Teacher
from experiments.assemble.checks import timetable_of
from experiments.assemble.data import Encoder
from experiments.assemble.models import Models
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.precision import autocast_of
from experiments.assemble.teaching import (
    PhaseTeachers,
    build_objectives,
    build_phase_teachers,
)
from experiments.config.tree import PhaseConfig
from experiments.run.context import Stage
from experiments.run.peers.lesson import lesson_of
from experiments.sources.phases import STUDENT
from plugins.registry import Registry
from student.distiller import Distiller
from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import LoadedModel
from teacher.sources.peers import Peer
from teacher.trained_teacher import TrainedTeacher


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PeerLesson:
    """Of one peer in one phase."""

    phase: PhaseConfig
    """See :func:`experiments.run.peers.lesson.lesson_of`."""
    encode: Encoder
    """Its tokenizer."""
    faculty: PhaseTeachers
    """The student, and other peers."""
    distiller: Distiller
    """As it learns; its terms are yet to be fitted."""


def peers_of(models: Models, stage: Stage) -> dict[str, TrainedTeacher]:
    """The peers of a phase by name, in its order."""
    chosen = models.chosen(stage.teachers)
    return {
        name: teacher
        for name, teacher in chosen.items()
        if isinstance(teacher, TrainedTeacher)
        and isinstance(models.sources[name], Peer)
    }


def without(
    peers: Mapping[str, TrainedTeacher], name: str
) -> dict[str, TrainedTeacher]:
    """All others."""
    return {other: peer for other, peer in peers.items() if other != name}


def teaching_student(models: Models, model: Any, capture: KVCapture) -> TrainedTeacher:
    """The student of a phase, as peers meet it."""
    loaded = LoadedModel(model, models.student_tokenizer, models.student_kind, STUDENT)
    return TrainedTeacher(STUDENT, loaded, capture)


def peer_lesson(
    models: Models,
    registry: Registry,
    stage: Stage,
    peer: TrainedTeacher,
    student: TrainedTeacher,
    *,
    calibration: Sequence[TextSample],
    learned: Sequence[TextSample],
    learn_end: bool,
    steps: int,
    seed: int = 0,
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]],
) -> PeerLesson:
    """Have a peer meet the student and the phase's other peers.

    Args:
        models: of the run; its teachers are those of the phase.
        registry: where names are looked up.
        stage: the phase.
        peer: one of its peers, as it stands.
        student: as it teaches peers.
        calibration: texts to calibrate on.
        learned: all texts that are learned from.
        learn_end: whether ends of texts are.
        steps: optimiser steps of the phase.
        seed: of the phase, for what terms draw.
        progress: wraps an iterable under a title, with its length.

    Raises:
        ConfigError: it would learn nothing from the student.
    """
    every, peers = models.chosen(stage.teachers), peers_of(models, stage)
    phase = lesson_of(stage.phase, peer.name, list(peers), every)
    teachers: dict[str, Teacher] = {STUDENT: student, **without(peers, peer.name)}
    encode = Encoder(peer.tokenizer, peer.capture.max_tokens, learn_end)
    timetable = timetable_of(phase, registry, steps, seed)
    faculty = build_phase_teachers(
        phase,
        registry=registry,
        student=peer.capture,
        encode=encode,
        teachers=teachers,
        shares=dict.fromkeys(teachers, 1.0),
        samples=calibration,
        progress=progress,
        timetable=timetable,
    )
    model: Any = peer.loaded.model
    distiller = Distiller(
        model,
        peer.capture,
        objectives=build_objectives(phase, registry, True),
        config=phase.loss,
        teaching=faculty.teaching,
        autocast=autocast_of(phase.train),
        output=output_plan(phase, registry, peer.capture, peer.tokenizer, teachers),
        head=own_head(phase, peer.capture),
        timetable=timetable,
        domains=sorted({sample.domain for sample in learned}),
    )
    return PeerLesson(phase=phase, encode=encode, faculty=faculty, distiller=distiller)
