"""Put the arms side by side: what each phase brought, and against what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.tree import Config
from experiments.evaluators.chosen import USUAL
from experiments.record.run_dir import CE_ONLY, MAIN, SINGLE, helped, mean_bpc
from experiments.run.gates import Judgement, kept_before
from experiments.run.measures.students import numbers
from teacher.teacher_rule import OfKind

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Per arm its phases, as :func:`experiments.run.phase.run_stage` gives them."""


def summarize(
    config: Config,
    results: Results,
    judged: Sequence[Judgement],
    start: Mapping[str, float],
    facts: Mapping[str, OfKind],
    lower: bool = True,
) -> dict[str, Any]:
    """Compare every phase with the baselines at the same steps.

    Of every phase, on the mean over domains: ``beats_ce_only``, whether its student
    needs fewer bits per character than the same student trained by next-token loss
    alone; ``beats_best_single``, fewer than the best student of one teacher; None where
    there is no such student, or it is this very one. ``helped`` is whether it needs
    fewer than each of those there are; None where there is neither. Where the gate's
    metric is another, all three are by the mean over its parts, which lies under
    ``by``.

    Args:
        config: the run's.
        results: what every arm measured.
        judged: what the gate made of each phase of the main arm.
        start: the student's bits per character before training.
        facts: kind and family of the teachers.
        lower: whether lower is better by the gate's metric.
    """
    main, phases, metric = results[MAIN], [], config.gate.metric
    for index, stage_result in enumerate(main):
        before = kept_before(judged[:index])
        ce_only = _bpc(results, CE_ONLY, index)
        best = _best_single(results, index)
        alone = best is None or _alone(main[: index + 1], best)
        rival = None if best is None or alone else best["bpc"]
        beats = (
            _better(stage_result["bpc"], ce_only),
            _better(stage_result["bpc"], rival),
        )
        by = {}
        if metric != USUAL:
            by = {"by": _by(results, metric, index, lower=lower, rivals=not alone)}
            beats = _beats(by["by"], lower=lower)
        phases.append(
            {
                **stage_result,
                "ce_only": ce_only,
                "ce_only_metrics": _metrics(results, CE_ONLY, index),
                "best_single": best,
                "previous": dict(start if before is None else main[before]["bpc"]),
                "beats_ce_only": beats[0],
                "beats_best_single": beats[1],
                "helped": helped(*beats),
                "gate": judged[index].plain(),
                **by,
            }
        )
    last = kept_before(judged)
    return {
        "name": config.run.name,
        "seed": config.run.seed,
        "student": config.student.model,
        "teachers": {
            name: {
                "model": entry.model,
                "kind": facts[name].kind,
                "family": facts[name].family,
            }
            for name, entry in config.teachers.items()
        },
        "start": dict(start),
        "phases": phases,
        "final_phase": None if last is None else main[last]["name"],
        "singles": {
            arm.removeprefix(SINGLE): [phase["bpc"] for phase in arm_results]
            for arm, arm_results in results.items()
            if arm.startswith(SINGLE)
        },
    }


def _by(
    results: Results, metric: str, index: int, *, lower: bool, rivals: bool
) -> dict[str, Any]:
    """A phase's student and its baselines by one metric, mean over its parts."""

    def value(arm: str) -> float | None:
        return (
            mean_bpc(numbers(results[arm][index], metric)) if arm in results else None
        )

    singles = {
        arm.removeprefix(SINGLE): known
        for arm in results
        if rivals and arm.startswith(SINGLE) and (known := value(arm)) is not None
    }
    best = (min if lower else max)(singles, key=lambda n: singles[n], default=None)
    return {
        "metric": metric,
        "better": "lower" if lower else "higher",
        "value": value(MAIN),
        "ce_only": value(CE_ONLY),
        "best_single": None if best is None else singles[best],
        "single_teacher": best,
    }


def _beats(by: Mapping[str, Any], *, lower: bool) -> tuple[bool | None, bool | None]:
    """Whether a phase's student is better than CE only, and than the best single one;
    what is not finite is not."""

    def beats(other: float | None) -> bool | None:
        if by["value"] is None or other is None:
            return None
        ours: float = by["value"]
        return ours < other if lower else ours > other

    return beats(by["ce_only"]), beats(by["best_single"])


def _alone(phases: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> bool:
    """Whether this one teacher is all that taught: both students are the same."""
    return all(phase.get("teachers") == [best["teacher"]] for phase in phases)


def _bpc(results: Results, arm: str, index: int) -> dict[str, float] | None:
    return dict(results[arm][index]["bpc"]) if arm in results else None


def _metrics(results: Results, arm: str, index: int) -> dict[str, Any] | None:
    return results[arm][index].get("metrics") if arm in results else None


def _best_single(results: Results, index: int) -> dict[str, Any] | None:
    singles = {
        arm.removeprefix(SINGLE): dict(arm_results[index]["bpc"])
        for arm, arm_results in results.items()
        if arm.startswith(SINGLE)
    }
    if not singles:
        return None
    teacher = min(singles, key=lambda name: mean_bpc(singles[name]) or 0.0)
    return {"teacher": teacher, "bpc": singles[teacher]}


def _better(
    phase_bpc: Mapping[str, float], other: Mapping[str, float] | None
) -> bool | None:
    mine, theirs = mean_bpc(phase_bpc), mean_bpc(other)
    return None if mine is None or theirs is None else mine < theirs
