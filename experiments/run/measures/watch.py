"""What a phase is measured by while it trains, and what that decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from align.foreign.quote import say
from experiments.config.tree import PhaseConfig
from experiments.record.run_dir import mean_bpc
from experiments.run.context import PhasePosition, RunContext
from experiments.run.evaluation import evaluate
from experiments.run.measures.students import measure_more, with_bits
from experiments.writing.samples import prompts_of, written_now
from student.evaluators.best import Best
from teacher.capture.kv_capture import KVCapture


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
    show: Callable[[int], None] | None = None
    """Has the student write, after so many steps."""

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
        metrics = self.measure()
        if self.show is not None:
            self.show(step)
        line: dict[str, Any] = {"kind": "watch", "step": step, "metrics": metrics}
        for best, metric in (
            (self.stop, self.stop_metric),
            (self.keep, self.keep_metric),
        ):
            value = mean_bpc(metrics.get(metric))
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
    position: PhasePosition,
) -> Watch | None:
    """What a phase is to be watched by; None where nothing is measured within it.

    Args:
        run: what all arms share.
        phase: the phase.
        capture: its student.
        model: the same.
        position: where the phase stands.
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
            metrics = with_bits(more.get("metrics", {}), bpc)
        model.train(training)
        return run.engine.from_main(lambda: metrics)

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
        show=_shown(run, model, position),
    )


def _shown(
    run: RunContext, model: Any, position: PhasePosition
) -> Callable[[int], None] | None:
    """What has the student write for trackers; None where nobody asks for it."""
    settings, tokenizer = run.config.samples, run.models.student_tokenizer
    if not settings.during or not run.engine.is_main:
        return None
    prompts = prompts_of(settings, run.data.eval, tokenizer)

    def show(step: int) -> None:
        seed = run.config.run.seed
        try:
            texts = written_now(settings, prompts, tokenizer, model, seed)
        except Exception as error:  # a look at the student ends no training
            say(f"warning: no sample of writing after {step} steps: {error}")
            return
        both = zip(prompts, texts, strict=True)
        shown = {str(n): f"{p}{text}" for n, (p, text) in enumerate(both, start=1)}
        run.metrics.write_texts(shown, position.arm, position.offset + step)

    return show


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


def exits_kept(
    exits: dict[int, torch.Tensor], best: Mapping[str, Any], done: int
) -> dict[int, torch.Tensor]:
    """The early exits of a phase that are its student's.

    Args:
        exits: as the last step left them.
        best: of :func:`put_best`.
        done: steps.

    Returns:
        None of them where another student than the last is kept; that is said.
    """
    if not exits or not best or best["best"]["step"] == done:
        return exits
    say(
        "warning: the student that is kept is not the last one, whose early exits are "
        "left out; set train.keep_best=null to keep both"
    )
    return {}


def _lower(run: RunContext, metric: str) -> bool:
    return run.evaluators.metrics[metric].better == "lower"
