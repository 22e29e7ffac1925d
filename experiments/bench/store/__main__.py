"""What storing teachers costs beside computing, and beside plain files.

    python -m experiments.bench.store [--scale tiny] [--picture docs/images/store.png]

One process, one thread of PyTorch; candidate and baseline take turns and the median
of their ratios counts: of wall time for writing, which waits for a disk, of processor
time for all else. The exit status is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from experiments.bench.measure import one_thread, show


def main() -> int:
    """Measure, print, and say by the exit status whether all bars are kept."""
    one_thread()
    parser = argparse.ArgumentParser(
        prog="experiments.bench.store", description="Measure storing keys and values."
    )
    parser.add_argument("--scale", default="default", help="of the zoo's teachers")
    parser.add_argument("--picture", type=Path, help="PNG of size against error")
    parser.add_argument("--part", choices=("all", "costs", "sizes"), default="all")
    chosen = parser.parse_args()
    from experiments.bench.store.costs import costs
    from experiments.bench.store.sizes import sizes

    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores - 1:
        print(
            f"other work keeps {load:.1f} of {cores} cores busy: writing digests on a "
            "second core, and takes longer where none is idle"
        )
    kept = True
    if chosen.part in ("all", "costs"):
        kept &= show(costs())
    if chosen.part in ("all", "sizes"):
        kept &= show(sizes(chosen.scale, chosen.picture))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
