"""A step's time and each process's memory, with teachers on ranks of their own.

    python -m experiments.bench.ranks [--steps 12] [--launches 3x0 2x1 2x0 1x1]

``AxB`` are A processes that train and B that hold teachers (``train.teacher_ranks``);
with 0 each that trains holds all. Every launch takes the same samples a step, from the
zoo's two decoders, on this machine's processors, one thread a process. Seconds are
medians of the logged steps without the first two, by the wall: on a machine that does
other things they say little. Memory is what a process has to itself (USS), at its
highest.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread


def main() -> int:
    """Launch, measure, print."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.ranks", description="Measure teachers on ranks."
    )
    parser.add_argument("--steps", type=int, default=12, help="of each launch (12)")
    parser.add_argument(
        "--launches", nargs="+", default=["3x0", "2x1", "2x0", "1x1"], metavar="AxB"
    )
    options = parser.parse_args()
    if options.steps < 4:
        parser.error("--steps is 4 or more")
    one_thread()
    from experiments.bench.ranks.launches import measure

    measure(options.steps, options.launches)
    return 0


if __name__ == "__main__":
    sys.exit(main())
