"""What objectives on next-token distributions cost, at a vocabulary of 151,936.

    python -m experiments.bench.losses [--part divergence] [--rounds 7]
    python -m experiments.bench.losses --part gold      needs `pip install trl`

One process, one thread of PyTorch; candidate and baseline take turns and the median
of their ratios counts. Memory is measured in processes of its own. The exit status is
1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from experiments.bench.measure import one_thread, show

PARTS = ("divergence", "transport", "pieces")
"""Each a module beside this one whose ``bars(rounds=)`` are measured."""

PEERS = ("gold",)
"""The same, of packages that the project does not bring: measured if named."""


def main() -> int:
    """Measure, print, and say by the exit status whether all bars are kept."""
    one_thread()
    parser = argparse.ArgumentParser(
        prog="experiments.bench.losses", description="Measure output objectives."
    )
    parser.add_argument("--part", choices=("all", *PARTS, *PEERS), default="all")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of each ratio")
    chosen = parser.parse_args()

    bars = []
    for part in PARTS if chosen.part == "all" else (chosen.part,):
        module = importlib.import_module(f"experiments.bench.losses.{part}")
        bars += module.bars(rounds=chosen.rounds)
    return 0 if show(bars) else 1


if __name__ == "__main__":
    sys.exit(main())
