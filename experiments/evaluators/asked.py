"""Ask evaluators about models, and keep what they find as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from align.errors import InputError
from experiments.evaluators.chosen import Chosen
from plugins.seeds import kept
from student.evaluators.base import EvalContext, Metric, Values, mean_of


@dataclass(kw_only=True, slots=True)
class Measurements:
    """What evaluators said of several models."""

    metrics: Mapping[str, Metric]
    models: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """By model, metric and part."""
    teachers: dict[str, dict[str, float]] = field(default_factory=dict)
    """What is measured of the teachers as a set, by metric and part."""
    notes: list[str] = field(default_factory=list)
    """What was not measured, and why."""
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """What each model wrote."""

    def plain(self) -> dict[str, Any]:
        """As files and other programs read it."""
        return {
            "metrics": plain_metrics(self.metrics),
            "models": self.models,
            "teachers": self.teachers,
            "notes": self.notes,
            "samples": self.samples,
        }


def plain_metrics(metrics: Mapping[str, Metric]) -> dict[str, dict[str, str]]:
    """Unit and direction of each metric, by its name."""
    return {n: {"unit": m.unit, "better": m.better} for n, m in metrics.items()}


def ask(evaluators: Chosen, ctx: EvalContext, into: Measurements) -> Values:
    """Have one model measured by all evaluators that measure models.

    Returns:
        Its numbers, which are in ``into``, too.

    Raises:
        InputError: from an evaluator, which it names.
    """
    values: dict[str, dict[str, float]] = {}
    for name, evaluator in evaluators.by_name.items():
        if evaluator.of_teachers:
            continue
        measured = _measured(name, evaluator, ctx)
        values |= {metric: dict(parts) for metric, parts in measured.values.items()}
        _note(into, measured.notes)
        if measured.samples:
            rows = into.samples.setdefault(ctx.subject.name, [])
            rows += [dict(sample) for sample in measured.samples]
    into.models[ctx.subject.name] = values
    return values


def ask_of_teachers(evaluators: Chosen, ctx: EvalContext, into: Measurements) -> None:
    """Have the teachers measured as a set; ``ctx.subject`` is any of the models."""
    for name, evaluator in evaluators.by_name.items():
        if evaluator.of_teachers:
            measured = _measured(name, evaluator, ctx)
            for metric, parts in measured.values.items():
                into.teachers[metric] = dict(parts)
            _note(into, measured.notes)


def retention(
    values: Values, teacher: Values, metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """How much of a teacher's quality a student keeps, in %, by metric.

    The mean over the parts that both have: the student's share of the teacher's number
    where higher is better, the teacher's share of the student's where lower is.
    """
    kept_shares = {}
    for name, metric in metrics.items():
        ours, theirs = values.get(name, {}), teacher.get(name, {})
        shared = [part for part in ours if part in theirs]
        if metric.better == "neither" or not shared:
            continue
        mine = mean_of({part: ours[part] for part in shared}) or 0.0
        other = mean_of({part: theirs[part] for part in shared}) or 0.0
        top, under = (mine, other) if metric.better == "higher" else (other, mine)
        if under > 0:
            kept_shares[name] = 100 * top / under
    return kept_shares


def _measured(name: str, evaluator: Any, ctx: EvalContext) -> Any:
    """Ask one, and leave the process's seeds and gradients as they were."""
    restore = kept()
    devices = [ctx.device] if ctx.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            return evaluator(ctx)
    except InputError as error:
        raise InputError(f"evaluator {name}, {ctx.subject.name}: {error}") from error
    finally:
        restore()


def _note(into: Measurements, notes: Sequence[str]) -> None:
    into.notes += [note for note in notes if note not in into.notes]


def renamed(ctx: EvalContext, name: str) -> EvalContext:
    """The same about one of the teachers."""
    return replace(ctx, subject=ctx.teachers[name])
