"""What writing costs a student that learns from its own text.

    python -m experiments.bench.written [--scale default] [--rounds 7] [--gathered]

A buffer of ``data.written`` (openings, batches padded on the left, texts cut for
everybody, a look at them) against plain ``generate`` of transformers on the same tokens
of the same model, in one batch; new tokens a second of both; and what writing half of
the texts takes beside a step with one teacher's keys, values and outputs. One process,
one thread, alternating, medians of paired ratios of processor time. With ``--gathered``
instead the same buffer under ZeRO 3, which gathers the student's weights for it, and
under ZeRO 0, one after the other, without a bar. The exit status is 1 where a bar is
missed.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread


def main() -> int:
    """Measure, print, and say by the exit status whether all bars are kept."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.written", description="Measure on-policy writing."
    )
    parser.add_argument("--scale", default="default", help="of the zoo (default)")
    parser.add_argument("--rounds", type=int, default=7, help="pairs (7)")
    parser.add_argument("--gathered", action="store_true", help="ZeRO 3 against 0")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; give 1 or more")
    one_thread()
    from experiments.bench.written.costs import measure, measure_gathered

    if options.gathered:
        measure_gathered(options.scale, options.rounds)
        return 0
    return 0 if measure(options.scale, options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
