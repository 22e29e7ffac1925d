"""What a step costs whose teachers' next-token outputs come from a store.

    python -m experiments.bench.outputs [--scale default] [--rounds 9] [--top-k 64]
        [--zoo-alone]

An optimiser step (tokenise, ask three teachers, likelihood across vocabularies,
backward, AdamW) with outputs read from stores, against the same step with the teachers
asked live; with the zoo's teachers, and, without ``--zoo-alone``, with teachers of
twice their width and depth.
One process, one thread, alternating, medians of paired ratios of processor time. Beside
it the bytes of a stored token. The exit status is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread


def main() -> int:
    """Measure, print, and say by the exit status whether all bars are kept."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.outputs", description="Measure stored outputs."
    )
    parser.add_argument("--scale", default="default", help="of the zoo (default)")
    parser.add_argument("--rounds", type=int, default=9, help="pairs (9)")
    parser.add_argument("--top-k", type=int, default=64, help="tokens a place (64)")
    parser.add_argument("--zoo-alone", action="store_true", help="no larger teachers")
    options = parser.parse_args()
    if min(options.rounds, options.top_k) < 1:
        parser.error("give --rounds and --top-k of 1 or more")
    one_thread()
    from experiments.bench.outputs.costs import measure

    sizes = (False,) if options.zoo_alone else (False, True)
    return 0 if measure(options.scale, options.rounds, options.top_k, sizes) else 1


if __name__ == "__main__":
    sys.exit(main())
