"""What the platform costs beside the bare models, step by step.

    python -m experiments.bench.step [--scale default] [--rounds 7]

A whole step (tokenise, three teachers of three tokenizers, capture, align, adapt, fuse,
losses, backward) against the same student forward and backward and the same teachers
forward, each run bare; then a checkpoint against the steps of its interval, and
DeepSpeed against plain PyTorch; ``--only chosen``, three equal teachers of which each
text is read by one against the same where all read all; ``--only compiled``, the
student alone under ``train.compile``. One process, one thread, alternating, medians of
paired ratios. The exit status is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread, show

PARTS = ("step", "engine", "chosen", "compiled")


def main() -> int:
    """Measure, print, and say by the exit status whether all bars are kept."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.step", description="Measure whole training steps."
    )
    parser.add_argument("--scale", default="default", help="of the zoo (default)")
    parser.add_argument("--rounds", type=int, default=7, help="pairs (7)")
    parser.add_argument("--only", choices=PARTS, help="one part")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; give 1 or more")
    one_thread()
    from experiments.bench.step.chosen import measure_chosen
    from experiments.bench.step.compiled import measure_compiled
    from experiments.bench.step.costs import measure

    if options.only == "compiled":
        return 0 if show(measure_compiled(options.scale, options.rounds)) else 1
    if options.only == "chosen":
        return 0 if show(measure_chosen(options.scale, options.rounds)) else 1
    return 0 if measure(options.scale, options.rounds, options.only) else 1


if __name__ == "__main__":
    sys.exit(main())
