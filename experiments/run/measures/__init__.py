"""What evaluators say of a run's students and teachers, and what decides by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from align.text.documents import TextSample
from experiments.assemble.data import Encoder
from experiments.config.tree import PhaseConfig
from experiments.evaluators.asked import Found, ask, ask_of_teachers, plain_metrics
from experiments.evaluators.chosen import USUAL, Chosen
from experiments.evaluators.pairs import read_pairs
from experiments.record.run_dir import mean_bpc
from experiments.run.context import RunContext
from experiments.run.evaluation import evaluate
from student.evaluators.base import EvalContext, Subject, Values
from student.evaluators.best import Best
from teacher.capture.kv_capture import KVCapture
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
    found: Mapping[str, float] = (
        result[f"{prefix}bpc"]
        if metric == USUAL
        else result[f"{prefix}metrics"].get(metric, {})
    )
    return found


def _more(run: RunContext) -> Chosen:
    """Those that are asked beside bits per character, which every run measures."""
    return Chosen({n: e for n, e in run.evaluators.by_name.items() if n != USUAL})


def measure_more(
    run: RunContext,
    capture: KVCapture,
    model: Any,
    name: str,
    samples: Sequence[TextSample] | None = None,
) -> dict[str, Any]:
    """``metrics`` of a student, ``notes`` and ``written``; the same on all processes.

    Args:
        run: what all arms share.
        capture: the student.
        model: the same.
        name: what it is called.
        samples: None: the held-out text.
    """
    evaluators = _more(run)
    if not evaluators.by_name:
        return {}
    found = Found(evaluators.metrics)
    subject = _student(run, capture, model, name)
    training = model.training
    model.eval()
    try:
        ask(evaluators, _context(run, subject, samples), found)
    finally:
        model.train(training)
    plain = {
        "metrics": found.models[name],
        "notes": found.notes,
        "written": found.samples.get(name, []),
    }
    return run.engine.from_main(lambda: plain)


def measure_teachers(run: RunContext) -> dict[str, Any]:
    """What evaluators say of the teachers that predict, and of them as a set."""
    evaluators = _more(run)
    teachers = _teachers(run)
    found = Found(evaluators.metrics)
    if not evaluators.by_name or not teachers:
        return {}
    for teacher in teachers.values():
        ask(evaluators, _context(run, teacher, None), found)
    ask_of_teachers(
        evaluators, _context(run, next(iter(teachers.values())), None), found
    )
    return {
        "models": found.models,
        "set": found.teachers,
        "notes": found.notes,
        "metrics": plain_metrics(run.evaluators.metrics),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What is measured within a phase, and what that decides."""

    every: int
    measure: Callable[[], dict[str, dict[str, float]]]
    """Metrics of the student as it stands, the same on every process."""
    keep: Best | None
    keep_metric: str
    stop: Best | None
    stop_metric: str

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All that it remembers."""
        both = {"keep": self.keep, "stop": self.stop}
        return {
            f"{name}/{key}": tensor
            for name, best in both.items()
            if best is not None
            for key, tensor in best.tensors.items()
        }

    @property
    def stopped(self) -> bool:
        """Whether the phase is at its end."""
        return self.stop is not None and self.stop.stopped

    def see(self, step: int) -> dict[str, Any]:
        """Measure after so many steps; returns what is logged."""
        found = self.measure()
        line: dict[str, Any] = {"kind": "watch", "step": step, "metrics": found}
        for best, metric in (
            (self.stop, self.stop_metric),
            (self.keep, self.keep_metric),
        ):
            value = mean_bpc(found.get(metric))
            if best is not None:
                best.see(float("nan") if value is None else value, step)
        if self.keep is not None:
            line["best_step"] = self.keep.step
        return line


def watch_of(
    run: RunContext,
    phase: PhaseConfig,
    capture: KVCapture,
    model: Any,
) -> Watch | None:
    """What a phase is to be watched by; None where nothing is measured within it.

    Args:
        run: what all arms share.
        phase: the phase.
        capture: its student.
        model: the same.
    """
    every = run.config.eval.every
    if not every:
        return None
    texts = run.data.gate or run.data.eval

    def measure() -> dict[str, dict[str, float]]:
        training = model.training
        model.eval()
        devices = [run.engine.device] if run.engine.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            more = measure_more(run, capture, model, "student", texts)
            bpc = evaluate(run, capture, f"measuring within {phase.name}", None, texts)
            found = with_bits(more.get("metrics", {}), bpc)
        model.train(training)
        return run.engine.from_main(lambda: found)

    keep, stop = phase.train.keep_best, phase.train.early_stop
    return Watch(
        every=every,
        measure=measure,
        keep=Best(model, lower=_lower(run, keep), keep=True) if keep else None,
        keep_metric=keep or "",
        stop=Best(model, lower=_lower(run, stop.metric), patience=stop.patience)
        if stop.metric
        else None,
        stop_metric=stop.metric or "",
    )


def put_best(
    run: RunContext, watch: Watch | None, model: Any, aside: Path
) -> dict[str, Any]:
    """Keep the last student aside and put the best one in its place, where asked for.

    Returns:
        ``best``: its step and its number; empty where the last one is the phase's.
    """
    if watch is None or watch.keep is None or watch.keep.step is None:
        return {}
    run.engine.from_main(lambda: run.models.save_student(model, aside))
    watch.keep.restore()
    keep = watch.keep
    best = {"metric": watch.keep_metric, "value": keep.value, "step": keep.step}
    return {"best": best}


def measure_gate(
    run: RunContext, capture: KVCapture, model: Any, title: str
) -> dict[str, Any]:
    """What the gate's own text says of a student; nothing where there is none."""
    if not run.data.gate:
        return {}
    if run.config.gate.metric != USUAL:
        more = measure_more(run, capture, model, title, run.data.gate)
        return {"gate_metrics": more["metrics"]}
    gate_bpc = evaluate(run, capture, f"{title} for the gate", None, run.data.gate)
    return {"gate_bpc": run.engine.from_main(lambda: gate_bpc)}


def starting_point(run: RunContext) -> dict[str, Any]:
    """What is measured of the student before any training."""
    model = run.models.student(None).to(run.engine.device)
    capture = KVCapture(model)
    title = "measuring the untrained student"
    bpc = evaluate(run, capture, title)
    start: dict[str, Any] = {"bpc": run.engine.from_main(lambda: bpc)}
    if run.config.gate.metric != USUAL:
        start |= measure_more(run, capture, model, title)
    return start | measure_gate(run, capture, model, title)


def _lower(run: RunContext, metric: str) -> bool:
    return run.evaluators.metrics[metric].better == "lower"


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
        encode = Encoder(teacher.tokenizer, None)
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
