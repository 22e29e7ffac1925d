"""Whether several teachers' keys and values make a better student, arm by arm.

    python experiments/bench/quality.py [--arms ce qwen-code fixed] [--seeds 0 1 2]

Every arm trains the same student on the same data for the same steps, from each seed.
What is finished is kept under ``--out`` and not done again. The table compares with
cross-entropy alone: bits per character on held-out text, lower is better, with 95 %
bootstrap intervals over seeds and texts, and what an arm costs beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"small": ("quality", 600)}
"""Config and optimiser steps of each size."""


def main() -> int:
    """Train what is missing, then print and draw what there is."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.path[0] = str(ROOT)  # also where the checkout is not installed
    from experiments.bench._quality_arms import ARMS, CE_ONLY

    options = _parser(list(ARMS)).parse_args()
    if options.list:
        for arm in ARMS.values():
            print(f"{arm.name:<22} {arm.asks}")
        return 0
    names = [n for n in ARMS if n == CE_ONLY or n in (options.arms or ARMS)]
    for seed in options.seeds:  # a whole table for one seed comes first
        for name in names:
            _train(options, ARMS[name], seed)
    _show(options, [ARMS[name] for name in names])
    return 0


def _parser(arms: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure what teachers are worth to a student.",
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--arms", nargs="+", choices=arms, metavar="ARM")
    parser.add_argument("--list", action="store_true", help="say what the arms are")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="in place of the size's own")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--picture", type=Path, help="PNG; default: OUT/quality.png")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings for all arms",
    )
    return parser


def _train(options: argparse.Namespace, arm: Any, seed: int) -> None:
    """Train an arm from a seed unless its result is there."""
    from experiments.bench._quality_train import train_arm
    from experiments.config import config_path

    name, steps = SIZES[options.size]
    steps = options.steps or steps
    folder = options.out / f"{options.size}-{steps}" / arm.name
    result = folder / f"{seed}.json"
    if result.is_file():
        return
    told = train_arm(arm, seed, config_path(name), folder, steps, options.set)
    part = result.with_suffix(".part")
    part.write_text(json.dumps(told), encoding="utf-8")
    part.replace(result)


def _show(options: argparse.Namespace, arms: list[Any]) -> None:
    from experiments.bench._quality_table import draw, read_outcome, table
    from experiments.commands import print_table

    steps = options.steps or SIZES[options.size][1]
    root = options.out / f"{options.size}-{steps}"
    outcomes = [read_outcome(arm, root / arm.name, options.seeds) for arm in arms]
    baseline = outcomes[0]
    heads = ["arm", "seeds", *baseline.domains, "mean"]
    heads += ["against ce, %", "best single, %", "cost"]
    title = f"{options.size}, {steps} steps: held-out bits per character"
    print_table(title, heads, table(outcomes, baseline), numbers_from=1)
    if len(outcomes) > 1:
        picture = options.picture or root / "quality.png"
        draw(outcomes, baseline, picture)
        print(f"picture: {picture}")


if __name__ == "__main__":
    sys.exit(main())
