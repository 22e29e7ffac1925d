"""What a term ``match`` costs, site by site and distance by distance.

    python -m experiments.bench.match [--scale default] [--rounds 5]
    python -m experiments.bench.match --model pkg:smollm2 --batch-size 2 --tokens 64
    python -m experiments.bench.match --model pkg:smollm2 --batch-size 1 --shares

A whole step with one such term beside the next-token loss (tokenise, a teacher,
capture, projector, alignment, distance, backward) against the same models run bare: the
student's forward and backward, the teacher's forward to its last layer. Below 1 is what
a teacher saves by ending early. With ``--shares`` each distance's and projector's own
work in place of whole steps, as a share of a plain step: it takes minutes where whole
steps of a real model take an hour, and a busy machine disturbs it less. Student and
teacher are of the zoo's sizes, or both one real model. One process, one thread; whole
steps in alternating pairs; medians of processor time. There is no bar.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.match", description="Measure terms of match."
    )
    parser.add_argument("--scale", default="default", help="of the zoo (default)")
    parser.add_argument("--model", help="student and teacher, in place of the zoo's")
    parser.add_argument("--rounds", type=int, default=5, help="pairs (5)")
    parser.add_argument("--batch-size", type=int, default=14, help="texts (14)")
    parser.add_argument("--tokens", type=int, default=128, help="of a text (128)")
    parser.add_argument("--only", help="arms whose name holds this")
    parser.add_argument(
        "--shares",
        action="store_true",
        help="each distance's and projector's own work beside one plain step",
    )
    options = parser.parse_args()
    for name in ("rounds", "batch_size", "tokens"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; give 1 or more")
    one_thread()
    from experiments.bench.match.costs import Size, measure, measure_shares

    size = Size(
        scale=options.scale,
        model=options.model,
        batch_size=options.batch_size,
        tokens=options.tokens,
    )
    if options.shares:
        measure_shares(size, rounds=options.rounds)
    else:
        measure(size, rounds=options.rounds, only=options.only or "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
