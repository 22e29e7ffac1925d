"""Tokens per second on short texts: passes as they come, dealt by length, and packed.

    python -m experiments.bench.short_texts [--scale default] [--rounds 5] [--batch 32]

Sentences of the embedded prose, code and of each 8th paragraph whole. First whole
steps with two teachers, ``train.batch_by=samples`` against ``tokens``; then the bare
student alone, forward and backward, also with texts packed into full rows under a mask
and positions for each text. Then how far the loss of a text in a row with others is
from its loss alone, by family. One process, one thread, alternating pairs; ratios are
medians. The exit status is 1 where dealing gives less than 1.5 times the tokens per
second.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread


def main() -> int:
    """Measure, print, and say by the exit status whether the bar is kept."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.short_texts", description="Measure short texts."
    )
    parser.add_argument("--scale", default="default", help="of the zoo (default)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs (5)")
    parser.add_argument("--batch", type=int, default=32, help="texts of a pass (32)")
    options = parser.parse_args()
    if options.rounds < 1 or options.batch < 1:
        parser.error("--rounds and --batch are 1 or more")
    one_thread()
    from experiments.bench.short_texts.costs import measure

    return 0 if measure(options.scale, options.rounds, options.batch) else 1


if __name__ == "__main__":
    sys.exit(main())
