"""In which order a phase reads its texts, where a curriculum says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from experiments.assemble.models import Models
from experiments.choosing.before_reading import LENGTH, score_named
from experiments.config.parsing import ConfigError, check
from experiments.config.tree import Config, PhaseConfig
from experiments.record.run_dir import MAIN
from experiments.run.context import (
    PhasePosition,
    RunContext,
    Stage,
    phase_seed,
)
from experiments.run.measures.order_told import what_was_read
from experiments.run.measures.scores import forget_scores, phase_scores
from experiments.scoring.scorer import check_known
from fuse.config import SOFT
from plugins.options import options_of
from plugins.registry import Registry
from student.curriculum import DIFFICULTIES, Curriculum, Draw, Scores
from student.curriculum.choice import PLACE, ChosenCurriculum, chosen_curriculum
from student.curriculum.scores import needs_of
from teacher.capture.kv_capture import KVCapture
from teacher.output_head import vocabulary_digest


def curriculum_of(chosen: ChosenCurriculum, registry: Registry) -> Curriculum:
    """The curriculum that a config asks for.

    Raises:
        ConfigError: an option that it has not, or of another type.
        InputError: a value out of its range.
        PluginError: there is none of that name.
    """
    factory = registry.entry("curriculum", chosen.name).value
    check(options_of(factory), chosen.options, PLACE)
    made: Curriculum = registry.guarded("curriculum", chosen.name)(**chosen.options)
    return made


def scores_needed(
    config: Config, phase: PhaseConfig, registry: Registry
) -> tuple[frozenset[str], frozenset[str]]:
    """Columns of the scores that a phase goes by: as it begins, and when texts are
    scored anew. A router that chooses by difficulty goes by the first.

    Args:
        config: the run.
        phase: resolved settings.
        registry: where names are looked up.
    """
    chosen = chosen_curriculum(config.data.curriculum)
    again = frozenset[str]()
    if chosen is not None:
        again = curriculum_of(chosen, registry).needs
    router = registry.entry("router", phase.fuse.router).value
    by = score_named(phase.fuse, router)
    ranks = by is not None and phase.fuse.chosen != SOFT and by != LENGTH
    return again | (needs_of(by) if ranks and by is not None else frozenset()), again


def scores_by_text(
    run: RunContext, position: PhasePosition, capture: KVCapture, name: str
) -> dict[str, float]:
    """One difficulty of all texts as a phase begins, by their ids.

    Args:
        run: what all arms share.
        position: of the phase.
        capture: its student, as the phase begins.
        name: of ``student.curriculum.DIFFICULTIES``.
    """
    phase = run.arms[MAIN][position.index].phase
    needs, _ = scores_needed(run.config, phase, run.registry)
    with _same_draws(run):
        scores = phase_scores(run, position, capture, needs)
    values = scores.difficulty(name).tolist()
    ids = (sample.id for sample in run.data.train)
    return dict(zip(ids, values, strict=True))


def _same_draws(run: RunContext) -> AbstractContextManager[None]:
    """What is drawn afterwards does not depend on what is measured meanwhile."""
    device = run.engine.device
    cards = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=cards)


def check_curriculum(
    config: Config, phases: Iterable[PhaseConfig], registry: Registry
) -> None:
    """See, from settings alone, that texts can be put in order.

    Raises:
        ConfigError: a setting that does not go with the curriculum's.
        InputError: a value that it does not take.
        PluginError: there is none of that name.
    """
    chosen = chosen_curriculum(config.data.curriculum)
    if chosen is None:
        return
    made = curriculum_of(chosen, registry)
    if getattr(made, "needs_rescore", False) and not chosen.rescore:
        raise ConfigError(
            f"{PLACE}: {chosen.name} as it is set goes by what changed since the "
            "scoring before, and texts are scored once; set rescore: true, or to "
            "optimiser steps between two scorings"
        )
    written = config.data.written
    for phase in phases:
        every = chosen.every(phase.train.checkpoint_every)
        if every and phase.train.stage_of_deepspeed == 3:
            raise ConfigError(
                f"{PLACE}.rescore has the student read all texts while it trains, but "
                "train.zero_stage is 3, which leaves no process its weights whole; set "
                "train.zero_stage=2, or score once (rescore: false)"
            )
        if every and written.on and every % written.every:
            raise ConfigError(
                f"{PLACE}.rescore changes the order every {every} steps, in the midst "
                f"of a buffer of {written.every} (data.written.every); let one be a "
                "multiple of the other, the first of the second"
            )


def check_teachers_tell(
    config: Config, models: Models, stages: Sequence[Stage], registry: Registry
) -> None:
    """See, before any work, that every phase's teachers can say how hard texts are.

    Raises:
        InputError: names the phase and what nobody knows.
    """
    for stage in stages:
        needs, again = scores_needed(config, stage.phase, registry)
        asking = PLACE if needs == again else "fuse.fusion_method.difficulty"
        place = f"{asking}, phase {stage.phase.name!r}"
        if needs:
            digest = vocabulary_digest(models.student_tokenizer)
            check_known(needs, models.chosen(stage.teachers), digest, place)


def curriculum_notes(config: Config) -> list[str]:
    """A sentence on what orders the texts; none where a permutation does."""
    chosen = chosen_curriculum(config.data.curriculum)
    if chosen is None:
        return []
    again = f" and every {chosen.rescore} steps" if chosen.rescore else ""
    again = " and at every checkpoint" if chosen.rescore is True else again
    return [
        f"curriculum {chosen.name!r} orders the texts of every phase and arm: all of "
        f"them are scored as a phase begins{again}, and some may be read more often "
        "than others, or not at all"
    ]


@dataclass(kw_only=True)
class PhaseOrder:
    """See :class:`student.loop.data_order.Ordering`."""

    run: RunContext
    position: PhasePosition
    capture: KVCapture
    chosen: ChosenCurriculum
    curriculum: Curriculum
    every: int
    """Optimiser steps between two scorings; 0: the first is kept."""
    _scores: dict[int, Scores] = field(default_factory=dict)
    _steps: dict[int, Sequence[int]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def at(self, step: int) -> dict[str, Any]:
        """Have the scores at hand that hold from a step on, measured where due.

        Returns:
            A metrics line on them; empty where none were due.
        """
        due = self._due(step)
        started = time.perf_counter()
        for at in range(0, due + 1, self.every or due + 1):
            self._known(at, measure=at == step)
        if due != step:
            return {}
        scores = self._scores[due]
        return {
            "curriculum": self.chosen.name,
            "texts": len(scores),
            "seconds": round(time.perf_counter() - started, 3),
            "means": _means(scores),
        }

    def forget(self, done: int) -> None:
        """Remove scores of steps that are to be taken again."""
        forget_scores(self.run, self.position, done)
        self._scores = {at: x for at, x in self._scores.items() if at <= done}

    def indices(self, numbers: Sequence[int]) -> list[int]:
        """The samples with these numbers in the run."""
        with self._lock:
            first = self.position.first_sample
            return [self._sample(number - first) for number in numbers]

    def told(self, done: int) -> dict[str, Any]:
        """A metrics line on what the phase has read in so many steps."""
        size = self.run.engine.samples_per_step
        self.at(max(0, done - 1))
        read = [self._step(step) for step in range(done)]
        scores = self._scores[0]
        about = getattr(self.curriculum, "difficulty", "length")
        measured = DIFFICULTIES.get(about) if isinstance(about, str) else None
        if measured is None or not measured <= scores.columns.keys():
            about = "length"  # a stranger's may call anything by that name
        line = what_was_read(read, self.run.data.train, scores, about)
        return {"curriculum": self.chosen.name, "texts_per_step": size, **line}

    def _due(self, step: int) -> int:
        return step // self.every * self.every if self.every else 0

    def _sample(self, number: int) -> int:
        step, place = divmod(number, self.run.engine.samples_per_step)
        return self._step(step)[place]

    def _step(self, step: int) -> Sequence[int]:
        if step not in self._steps:
            if len(self._steps) > 64:
                self._steps.pop(next(iter(self._steps)))
            size, since = self.run.engine.samples_per_step, self._due(step)
            draw = Draw(
                seed=phase_seed(self.run.config.run.seed, self.position.index),
                first=step * size,
                size=size,
                texts=self.position.steps * size,
                since=since * size,
            )
            self._steps[step] = self.curriculum(self._scores[since], draw)
        return self._steps[step]

    def _known(self, step: int, measure: bool) -> None:
        """Scores of one step, and those before them as such.

        Args:
            step: of the phase.
            measure: whether the student stands there, so that they can be measured.
        """
        if step in self._scores:
            return
        phase = self.run.arms[MAIN][self.position.index].phase
        first, again = scores_needed(self.run.config, phase, self.run.registry)
        with _same_draws(self.run):
            self._scores[step] = phase_scores(
                self.run,
                self.position,
                self.capture,
                again if step else first,
                step=step,
                measure=measure,
                before=self._scores.get(step - self.every) if self.every else None,
            )


def order_of(
    run: RunContext, position: PhasePosition, stage: Stage, capture: KVCapture
) -> PhaseOrder | None:
    """The order of a phase with its first scores; None where it is a permutation.

    Args:
        run: what all arms share.
        position: of the phase.
        stage: the same.
        capture: its student, as the phase begins.
    """
    chosen = chosen_curriculum(run.config.data.curriculum)
    if chosen is None:
        return None
    order = PhaseOrder(
        run=run,
        position=position,
        capture=capture,
        chosen=chosen,
        curriculum=curriculum_of(chosen, run.registry),
        every=chosen.every(stage.phase.train.checkpoint_every),
    )
    order.at(0)
    return order


def log_order(order: PhaseOrder | None, done: int) -> None:
    """Write what a phase has read, once it is at its end."""
    if order is None:
        return
    run, position = order.run, order.position
    stage = run.arms[position.arm][position.index]
    line = {"kind": "order", "step": done, **order.told(done)}
    run.metrics.write(position.arm, stage.phase.name, line, position.offset)


def _means(scores: Scores) -> dict[str, dict[str, float]]:
    """The mean of every column by domain, over teachers and texts that are known."""
    domains: dict[str, list[int]] = {}
    for number, name in enumerate(scores.domains):
        domains.setdefault(name, []).append(number)
    return {
        column: {
            name: round(float(values[torch.tensor(numbers)].nanmean()), 4)
            for name, numbers in domains.items()
        }
        for column, values in scores.columns.items()
    }
