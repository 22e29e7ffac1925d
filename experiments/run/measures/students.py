"""What evaluators say of a run's students and teachers, and what decides by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from align.text.documents import TextSample
from experiments.assemble.data import Encoder
from experiments.evaluators.asked import (
    Measurements,
    ask,
    ask_of_teachers,
    plain_metrics,
)
from experiments.evaluators.chosen import USUAL, Chosen
from experiments.evaluators.pairs import read_pairs
from experiments.run.context import RunContext
from experiments.run.evaluation import evaluate
from student.evaluators.base import EvalContext, Subject, Values
from teacher.capture.kv_capture import KVCapture
from teacher.capture.pair_capture import capture_of
from teacher.distant.teacher import DistantTeacher
from teacher.live_teacher import LiveTeacher


def with_bits(values: Values, bpc: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Metrics by name, bits per character among them."""
    return {USUAL: dict(bpc)} | {name: dict(parts) for name, parts in values.items()}


def numbers(
    result: Mapping[str, Any], metric: str, own_text: bool = False
) -> Mapping[str, float]:
    """One metric of what a phase measured, of this version or an earlier one.

    Args:
        result: see :func:`experiments.run.phase.run_stage`.
        metric: its name.
        own_text: on the gate's own text.
    """
    prefix = "gate_" if own_text else ""
    by_part: Mapping[str, float] = (
        result[f"{prefix}bpc"]
        if metric == USUAL
        else result[f"{prefix}metrics"].get(metric, {})
    )
    return by_part


def _more(run: RunContext) -> Chosen:
    """Those that are asked beside bits per character, which every run measures."""
    return Chosen({n: e for n, e in run.evaluators.by_name.items() if n != USUAL})


def measure_more(
    run: RunContext,
    capture: KVCapture,
    model: Any,
    name: str,
    samples: Sequence[TextSample] | None = None,
    *,
    exits: Mapping[int, Tensor] | None = None,
) -> dict[str, Any]:
    """``metrics`` of a student, ``notes`` and ``written``; the same on all processes.

    Args:
        run: what all arms share.
        capture: the student.
        model: the same.
        name: what it is called.
        samples: None: the held-out text.
        exits: its heads of lower layers.
    """
    evaluators = _more(run)
    if not evaluators.by_name:
        return {}
    measurements = Measurements(metrics=evaluators.metrics)
    subject = replace(_student(run, capture, model, name), exits=exits or {})
    training = model.training
    model.eval()
    try:
        ask(evaluators, _context(run, subject, samples), measurements)
    finally:
        model.train(training)
    plain = {
        "metrics": measurements.models[name],
        "notes": measurements.notes,
        "written": measurements.samples.get(name, []),
    }
    return run.engine.from_main(lambda: plain)


def measure_teachers(run: RunContext) -> dict[str, Any]:
    """What evaluators say of the teachers that predict, and of them as a set."""
    evaluators = _more(run)
    teachers = _teachers(run)
    measurements = Measurements(metrics=evaluators.metrics)
    if not evaluators.by_name or not teachers:
        return {}
    for teacher in teachers.values():
        ask(evaluators, _context(run, teacher, None), measurements)
    ask_of_teachers(
        evaluators, _context(run, next(iter(teachers.values())), None), measurements
    )
    return {
        "models": measurements.models,
        "set": measurements.teachers,
        "notes": measurements.notes,
        "metrics": plain_metrics(run.evaluators.metrics),
    }


def measure_gate(
    run: RunContext,
    capture: KVCapture,
    model: Any,
    title: str,
    exits: Mapping[int, Tensor] | None = None,
) -> dict[str, Any]:
    """What the gate's own text says of a student; nothing where there is none."""
    if not run.data.gate:
        return {}
    if run.config.gate.metric != USUAL:
        more = measure_more(run, capture, model, title, run.data.gate, exits=exits)
        return {"gate_metrics": more["metrics"]}
    gate_bpc = evaluate(run, capture, f"{title} for the gate", None, run.data.gate)
    return {"gate_bpc": run.engine.from_main(lambda: gate_bpc)}


def starting_point(run: RunContext) -> dict[str, Any]:
    """What is measured of the student before any training."""
    model = run.models.student(None).to(run.engine.device)
    capture = capture_of(model)
    title = "measuring the untrained student"
    bpc = evaluate(run, capture, title)
    start: dict[str, Any] = {"bpc": run.engine.from_main(lambda: bpc)}
    if run.config.gate.metric != USUAL:
        start |= measure_more(run, capture, model, title)
    return start | measure_gate(run, capture, model, title)


def _context(
    run: RunContext, subject: Subject, samples: Sequence[TextSample] | None
) -> EvalContext:
    def shown(items: Iterable, count: int, title: str) -> Iterable:
        return run.progress.over(items, title, count)

    return EvalContext(
        subject=subject,
        teachers=_teachers(run),
        samples=run.data.eval if samples is None else samples,
        pairs=read_pairs(run.config.eval.pairs),
        seed=run.config.run.seed,
        progress=shown,
    )


def _student(run: RunContext, capture: KVCapture, model: Any, name: str) -> Subject:
    return Subject(
        name=name,
        model=model,
        capture=capture,
        tokenizer=run.models.student_tokenizer,
        encode=lambda texts: run.models.encode(texts).to(run.engine.device),
        max_tokens=capture.max_tokens,
    )


def _teachers(run: RunContext) -> dict[str, Subject]:
    """Teachers that are loaded and predict text."""
    subjects = {}
    for name, teacher in run.models.standing.items():
        if not isinstance(teacher, LiveTeacher) or not teacher.predicts:
            continue
        if isinstance(teacher, DistantTeacher):  # evaluators want the model itself
            continue
        encode = Encoder.of_teacher(teacher)
        folder = Path(str(run.config.teachers[name].model))
        subjects[name] = Subject(
            name=name,
            model=teacher.loaded.model,
            capture=teacher.capture,
            tokenizer=teacher.tokenizer,
            encode=_on(run, encode),
            max_tokens=teacher.capture.max_tokens,
            folder=folder if folder.is_dir() else None,
        )
    return subjects


def _on(run: RunContext, encode: Encoder) -> Any:
    return lambda texts: encode(texts).to(run.engine.device)
