"""The arms of a run: its own chain of phases, and the baselines beside it.

An arm is a list of phases, each starting from the last one's student. Every arm
reads the same samples in the same order for the same steps, so that what differs
is who taught.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.config import Config
from experiments.lineage import check_record, record_of, text_digests, write_record
from experiments.run_dir import MAIN
from experiments.stage import Bench, Place, Stage, checkpoint_folder, run_stage
from student.checkpoint import read_complete
from student.config import TrainConfig

CE_ONLY = "ce_only"
"""The arm without teachers."""
SINGLE = "single:"
"""Prefix of the arms with one teacher."""


def plan_arms(config: Config, stages: list[Stage]) -> dict[str, list[Stage]]:
    """The run's own chain and the baselines that were asked for, by name."""
    arms = {MAIN: stages}
    if config.baselines.ce_only:
        arms[CE_ONLY] = [Stage(stage.phase, ()) for stage in stages]
    wanted = config.baselines.single_teachers
    used = dict.fromkeys(name for stage in stages for name in stage.teachers)
    singles = (
        {"all": list(used), "none": []}.get(wanted)
        if isinstance(wanted, str)
        else wanted
    )
    for name in singles or []:
        arms[f"{SINGLE}{name}"] = [single_stage(stage, name) for stage in stages]
    return arms


def single_stage(stage: Stage, teacher: str) -> Stage:
    """The same phase with one teacher, which then has all the weight."""
    fuse = replace(stage.phase.fuse, fusion_method="fixed", weights=[1.0])
    return Stage(replace(stage.phase, fuse=fuse), (teacher,))


def phase_steps(train: TrainConfig, samples: int, samples_per_step: int) -> int:
    """Optimiser steps of a phase."""
    if train.steps is not None:
        return train.steps
    return train.num_epochs * -(-samples // samples_per_step)


def run_arm(bench: Bench, arm: str, stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Train an arm's phases in order, skipping those that are complete.

    Returns:
        Per phase what was measured, see :func:`experiments.stage.run_stage`.

    Raises:
        RunStopped: asked to stop; a checkpoint was written.
    """
    results: list[dict[str, Any]] = []
    source: str | Path | None = None
    offset = first_sample = 0
    texts = text_digests(bench.data)
    for index, stage in enumerate(stages):
        folder = arm_folder(bench.run_dir, arm) / f"{index + 1}-{stage.phase.name}"
        train, at_once = stage.phase.train, bench.engine.samples_per_step
        steps = phase_steps(train, len(bench.data.train), at_once)
        state = read_complete(folder)
        if state is None:
            if bench.engine.is_main:
                record = record_of(bench.config, stages[: index + 1], texts)
                write_record(folder, record)
            place = Place(arm, index, folder, source, steps, offset, first_sample)
            state = run_stage(bench, stage, place)
        elif bench.engine.is_main:  # left by a kill right after the phase was whole
            shutil.rmtree(checkpoint_folder(folder), ignore_errors=True)
        results.append(state)
        source = folder / "student"
        offset += steps
        first_sample += steps * at_once
    return results


def check_arm(
    run_dir: Path,
    arm: str,
    config: Config,
    stages: Sequence[Stage],
    texts: Mapping[str, str],
) -> None:
    """See, before any work, that what an arm has finished belongs to this config.

    Raises:
        ConfigError: a finished or started phase was trained with other settings.
        CheckpointError: a finished phase is damaged.
    """
    for index, stage in enumerate(stages):
        folder = arm_folder(run_dir, arm) / f"{index + 1}-{stage.phase.name}"
        check_record(folder, record_of(config, stages[: index + 1], texts))
        read_complete(folder, digests=True)


def arm_folder(run_dir: Path, arm: str) -> Path:
    """Where an arm keeps its phases."""
    if arm == MAIN:
        return run_dir / "phases"
    return run_dir / "baselines" / arm.replace(":", "-")
