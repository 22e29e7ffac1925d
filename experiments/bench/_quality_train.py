"""Train one arm of the quality testbed from one seed, and read what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bench._quality_arms import Arm
from experiments.config import Config, load_config


def config_of(
    arm: Arm, seed: int, base: Path, folder: Path, steps: int, more: Sequence[str]
) -> Config:
    """The run of an arm: the testbed's config, the arm's settings, then the user's.

    Raises:
        ConfigError: a setting cannot be used.
    """
    import yaml

    tree = yaml.safe_load(base.read_text(encoding="utf-8"))
    known = tree["teachers"]
    tree["teachers"] = {name: known[name] for name in arm.teachers}
    own = [
        f"run.dir={folder}",
        f"run.name=seed-{seed}",
        f"run.seed={seed}",
        f"train.steps={steps * arm.stretch}",
        f"phases=[{', '.join(arm.phases)}]",
        f"phase.all.teachers.min={min(1, len(arm.teachers))}",
    ]
    return load_config(tree, [*own, *arm.settings, *more])


def train_arm(
    arm: Arm, seed: int, base: Path, folder: Path, steps: int, more: Sequence[str]
) -> dict[str, Any]:
    """Train, or go on with, an arm's run and measure its student text by text.

    Args:
        arm: what to train.
        seed: of the student's first weights and of the samples' order.
        base: the testbed's config.
        folder: of the arm; the run is ``folder/seed-<seed>``.
        steps: optimiser steps of each phase, before the arm's ``stretch``.
        more: settings over the arm's own.

    Returns:
        ``bits`` (domain -> bits and characters of every text, in the order of the
        texts' names), ``cpu_s`` (processor seconds) and what was trained.
    """
    from experiments.driver import run_training

    config = config_of(arm, seed, base, folder, steps, more)
    before = time.process_time()
    run = run_training(config)
    spent = round(time.process_time() - before, 1)
    return {
        "arm": arm.name,
        "seed": seed,
        "steps": steps * arm.stretch,
        "bits": bits_by_text(config, run / "student"),
        "cpu_s": spent,
    }


def bits_by_text(config: Config, student: Path) -> dict[str, list[list[float]]]:
    """What every held-out text costs a student: domain -> (bits, characters) each."""
    from experiments.data import Encoder, load_data
    from student.evaluate import text_bits
    from teacher.capture import KVCapture
    from teacher.models import load_model

    loaded = load_model(str(student), role="student")
    encode = Encoder(loaded.tokenizer, config.data.max_length)
    samples = load_data(config.data, encode, config.run.seed).eval
    model: Any = loaded.model
    costs = text_bits(KVCapture(model.eval()), encode, samples)
    pairs = sorted(zip(samples, costs, strict=True), key=lambda pair: pair[0].id)
    out: dict[str, list[list[float]]] = {}
    for sample, cost in pairs:
        out.setdefault(sample.domain, []).append(list(cost))
    return out
