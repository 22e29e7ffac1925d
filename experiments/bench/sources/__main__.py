"""What a teacher that moves with the student costs beside one that stands still.

    python -m experiments.bench.sources [--scale default] [--rounds 9]
    python -m experiments.bench.sources --itself [--scale default] [--rounds 9]
    python -m experiments.bench.sources --served MODEL [--late MS] [--rounds 9]

An optimiser step (tokenise, ask the teacher, next-token divergence, backward, AdamW)
with ``ema``, and with ``checkpoint:-1``, which copies after every step, against the
same step with a frozen teacher of the same size, asked live. One process, one thread,
alternating, medians of paired ratios of processor time. The exit status is 1 where a
bar is missed.

With ``--itself`` in place of that: the share of a step that the pass takes in which
``self`` teaches deeper hidden states to shallower layers; no bar.

With ``--served`` in place of that: the share of a step's wall-clock time spent waiting
for a teacher behind a server, which the bench starts on the loopback address over the
model, with 1, 8 and 32 requests in flight; no bar.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread


def main() -> int:
    """Measure, print, and say by the exit status whether all bars are kept."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.sources", description="Measure teachers that move."
    )
    parser.add_argument("--scale", default="default", help="of the zoo (default)")
    parser.add_argument("--rounds", type=int, default=9, help="pairs (9)")
    parser.add_argument("--itself", action="store_true", help="the cost of self")
    parser.add_argument("--served", metavar="MODEL", help="that a server serves")
    parser.add_argument(
        "--late", type=float, default=50, help="milliseconds of an answer (50)"
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; give 1 or more")
    one_thread()
    if options.served:
        from experiments.bench.sources.waiting import wait

        wait(options.scale, options.served, options.rounds, options.late)
        return 0
    from experiments.bench.sources.costs import measure, share_of_asking

    if options.itself:
        share_of_asking(options.scale, options.rounds)
        return 0
    return 0 if measure(options.scale, options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
