"""What capturing keys and values costs beside the forward that makes them.

    python -m experiments.bench.capture

One process, one thread; candidate and baseline take turns and the median of their
ratios of processor time counts. What is measured is first compared with the plain
forward and the library's cache. Six families of four layers as wide as GPT-2 medium, on
the spot, whose forwards take 100 to 200 ms.

- *capture / plain*: logits and all layers' content KV, against the logits alone.
- *KV and hidden states*, *all states*, *attention of every head, within*: with these
  beside KV and logits (states as the model gives them, before and after norms and the
  embeddings; attention at 16 queries), the time of the call in units of what the
  library takes of it: a clock runs inside, because two forwards of a busy machine
  differ by more than capture takes. The same as whole forwards */ plain* follow without
  a bar, beside *plain / plain*, which shows how far they can be trusted, and *the
  library's hidden states / plain*.
- *KV only / its share*: the time of a capture without logits in units of the full
  forward's, divided by its share of that forward's FLOPs. They are counted while the
  plain forward runs (torch's FlopCounterMode): matrix products and attention, 2 FLOPs
  per multiply-add, attention as if no score were masked. The share is all that comes
  before the last asked layer's attention and that layer's projections to query, key and
  value, which half of the families make in one product; nothing after it.
- *peak memory / (plain + KV)*: the highest sum of live allocations during the forward,
  from the torch allocator's own events (torch.profiler); weights, which were there
  before, do not count.

The exit status is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread


def main() -> int:
    """Measure, print, and say by the exit status whether all bars are kept."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.capture", description="Measure capturing."
    )
    parser.add_argument(
        "--only", nargs="+", metavar="FAMILY", default=[], help="some of the families"
    )
    parser.add_argument(
        "--within", action="store_true", help="what is clocked within capture alone"
    )
    options = parser.parse_args()
    one_thread()
    from experiments.bench.capture.costs import measure
    from experiments.bench.capture.models import NAMES

    for name in options.only:
        if name not in NAMES:
            valid = ", ".join(NAMES)
            parser.error(f"--only {name!r} is no family; give some of {valid}")
    return 0 if measure(options.only, options.within) else 1


if __name__ == "__main__":
    sys.exit(main())
