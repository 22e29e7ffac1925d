"""What each phase of a run teaches: its terms, layer maps and first optimiser step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.layer_map import LayerMap
from align.schedules import Setting
from align.tokens.batch import TokenBatch
from align.views import KEYS_VALUES
from experiments.assemble.needs import wants_kv, who_gives
from experiments.assemble.outputs import build_term, teachers_of
from experiments.estimate.steps import Lesson
from experiments.record.course import phase_steps
from experiments.rehearsal.pieces import labels_of
from experiments.run.context import Stage
from experiments.run.opening import LoadedRun
from experiments.run.phase import in_step
from student.config import ChosenTerm
from student.loop.data_order import sample_indices
from student.loop.engine import Engine
from student.loop.trainer import Job, Observer, train_phase
from student.objective import OUTPUTS, needs_of
from student.terms.key_value import NEXT_TOKEN, chosen_terms


@dataclass(frozen=True, kw_only=True, slots=True)
class TermRow:
    """One term of a phase's loss."""

    name: str
    weight: Setting | None
    """None of a loss that carries its weight itself."""
    needs: str
    """What it is made of, in words."""
    teachers: Sequence[str]
    """Whom it learns from."""
    value: float | None
    """At the first step, before its weight; None where that step had none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """How far one teacher reaches in the first pass."""

    teacher: str
    kv: bool
    """Whether its keys and values are asked for."""
    tokens: int
    """The student's tokens at which they are compared."""
    sinks: int
    """Left out, because one of both stands at the front of its text."""
    uncovered: int
    """Left out, because the teacher has no text there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Masks:
    """What becomes of the tokens of a phase's first pass."""

    tokens: int
    """The student's, padding aside."""
    padding: int
    marks: int
    """Special tokens and what a chat template writes."""
    labels: int
    """Tokens that the student learns to predict."""
    compared: Sequence[Compared]


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseRehearsal:
    """One phase, tried out."""

    stage: Stage
    terms: Sequence[TermRow]
    maps: Mapping[str, LayerMap]
    masks: Masks
    step: Mapping[str, Any]
    """The metric line of its first optimiser step; empty where none was taken."""
    events: Sequence[str]
    """What went wrong in it."""


class _Notes(Observer):
    """Keeps a phase's lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def tried_phase(
    run: LoadedRun, engine: Engine, index: int, lesson: Lesson
) -> PhaseRehearsal:
    """Take a phase's first optimiser step as the run will.

    Of the first phase it is that very step. Later ones would begin with the student of
    the phase before, and here begin with the run's.

    Args:
        run: loaded.
        engine: of one process.
        index: of the phase.
        lesson: the phase's student and teachers, changed by the step.
    """
    stage, notes = run.stages[index], _Notes()
    first = _first_sample(run, engine, index)
    masks = _masks(run, engine, index, lesson, first)
    job = Job(
        samples=run.data.train,
        encode=run.models.encode,
        views=lesson.teachers.panel if lesson.teachers else None,
        steps=1,
        seed=run.plan.config.run.seed,
        first_sample=first,
        observer=notes,
        transforms=lesson.transforms,
    )
    train = in_step(stage.phase.train, bool(run.models.sharded))
    train_phase(lesson.distiller, engine, job, train)
    step = next((line for line in notes.lines if line["kind"] == "train"), {})
    return PhaseRehearsal(
        stage=stage,
        terms=term_rows(run, stage, step.get("terms", {})),
        maps=lesson.teachers.depth.maps if lesson.teachers else {},
        masks=masks,
        step=step,
        events=[_event(line) for line in notes.lines if line["kind"] == "event"],
    )


def _event(line: Mapping[str, Any]) -> str:
    return str(line.get("event") or {k: v for k, v in line.items() if k != "kind"})


def _first_sample(run: LoadedRun, engine: Engine, index: int) -> int:
    at_once, samples = engine.samples_per_step, len(run.data.train)
    before = run.stages[:index]
    done = sum(phase_steps(s.phase.train, samples, at_once) for s in before)
    return done * at_once


def _masks(
    run: LoadedRun, engine: Engine, index: int, lesson: Lesson, first: int
) -> Masks:
    """Of the first forward pass, whose texts no model has to read for it."""
    size = run.stages[index].phase.train.batch_size
    order = sample_indices(len(run.data.train), run.plan.config.run.seed, first, size)
    texts = [run.data.train[number].text for number in order]
    batch = run.models.encode(texts).to(engine.device)
    compared: list[Compared] = []
    if lesson.teachers is not None:
        readings = lesson.teachers.panel.read(batch)
        phase, registry = run.stages[index].phase, run.plan.registry
        teachers = run.models.chosen(run.stages[index].teachers)
        kv = who_gives(KEYS_VALUES, teachers) if wants_kv(phase, registry) else []
        places, _ = lesson.distiller.survey(batch, readings, _no_rows(batch))
        for m, reading in enumerate(readings):
            reached = places.available[..., m]
            clear = reached & places.clear[..., m]
            compared.append(
                Compared(
                    teacher=reading.name,
                    kv=reading.name in kv,
                    tokens=int(clear.sum()),
                    sinks=int((reached & ~clear).sum()),
                    uncovered=int((batch.has_text & ~reached).sum()),
                )
            )
    return Masks(
        tokens=int(batch.mask.sum()),
        padding=int((~batch.mask).sum()),
        marks=int((batch.mask & ~batch.has_text).sum()),
        labels=int(labels_of(batch).sum()),
        compared=compared,
    )


def _no_rows(batch: TokenBatch) -> Tensor:
    """One query position a text: which, changes nothing that is counted here."""
    return batch.ids.new_zeros((len(batch.ids), 1))


def term_rows(
    run: LoadedRun, stage: Stage, values: Mapping[str, float]
) -> list[TermRow]:
    """The terms of a phase, and the losses that space and router add.

    Args:
        run: loaded.
        stage: with its teachers.
        values: what the first step logged by name.
    """
    phase = stage.phase
    chosen = chosen_terms(phase.loss, phase.output)
    if not stage.teachers:
        chosen = {n: t for n, t in chosen.items() if t.kind == NEXT_TOKEN}
    rows = [
        _term_row(run, stage, name, term, values.get(name))
        for name, term in chosen.items()
    ]
    others = [name for name in values if name not in chosen]
    return rows + [
        TermRow(
            name=name,
            weight=None,
            needs=OTHERS.get(name, f"space {phase.fuse.space_name}"),
            teachers=stage.teachers,
            value=values[name],
        )
        for name in others
    ]


OTHERS = {
    "outcome": "a second pass of the student that reads the teachers' keys and values",
    "teacher_loss": "the teachers' own next-token losses, for the router",
    "entropy": "the router's weights",
}
"""What losses are made of that are no terms."""


def _term_row(
    run: LoadedRun,
    stage: Stage,
    name: str,
    term: ChosenTerm,
    value: float | None,
) -> TermRow:
    objective = build_term(term, run.plan.registry)
    needs = needs_of({name: objective})
    made_of = [need.replace("outputs", "next-token outputs") for need in sorted(needs)]
    known = run.models.chosen(stage.teachers)
    teachers = [n for n in known if all(n in who_gives(need, known) for need in needs)]
    if term.kind == NEXT_TOKEN:
        made_of, teachers = ["the text itself"], []
    elif OUTPUTS in needs:
        meant = teachers_of(stage.phase, name, known)
        teachers = [name for name in teachers if name in meant]
    return TermRow(
        name=name,
        weight=term.weight,
        needs=", ".join(made_of),
        teachers=teachers,
        value=value,
    )
