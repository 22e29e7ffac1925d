"""What tokenising and aligning cost beside tokenising alone.

    python -m experiments.bench.alignment [--data FOLDER]

One process, one thread; candidate and baseline take turns and the median of their
ratios counts. Every alignment is compared with the dense definition first. FOLDER, or
``$MTKD_DATA``, holds ``tokenizers/<name>/tokenizer.json`` of real models; without
either, small tokenizers are trained on the spot.
The exit status is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from experiments.bench.measure import one_thread


def main() -> int:
    """Measure, print, and say by the exit status whether all bars are kept."""
    one_thread()
    from experiments.bench.alignment.costs import measure

    return 0 if measure(_folder()) else 1


def _folder() -> Path | None:
    parser = argparse.ArgumentParser(
        prog="experiments.bench.alignment",
        description="Measure tokenising and aligning.",
    )
    given = os.environ.get("MTKD_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=given,
        help="holds tokenizers/NAME of real models; default: $MTKD_DATA",
    )
    parser.add_argument("--trained", action="store_true", help="train small ones")
    chosen = parser.parse_args()
    return None if chosen.trained or not chosen.data else Path(chosen.data)


if __name__ == "__main__":
    sys.exit(main())
