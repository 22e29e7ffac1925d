"""Whether `mtkd estimate --plan` says what training holds, on a CPU.

    python -m experiments.bench.memory

Students of mid size and random weights learn from a teacher of their vocabulary of
151,936 tokens, by keys and values and by next-token distributions: quantised with
low-rank updates, the same with gradient checkpointing, and whole. Each trains in a
process of its own, whose resident memory at its highest is compared with the plan. A
process counts from when libraries are loaded and a small model has trained, so what
Python takes is left out; glibc is told to give freed memory back, so what it hoards is
left out too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

TOLERANCE = 0.1
"""Of the plan, by which a measurement may be off."""


def main() -> int:
    """Measure, print, and say by the exit code whether every bar is kept."""
    from experiments.bench.measure import Bar, show
    from experiments.bench.memory.runs import CASES, prepare_models, run_alone

    parser = argparse.ArgumentParser(
        prog="experiments.bench.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", choices=sorted(CASES), help="one of the students (all)"
    )
    chosen = parser.parse_args().only
    bars = []
    with tempfile.TemporaryDirectory() as folder:
        models = prepare_models(Path(folder))
        print(f"{'student':<24} {'planned':>9} {'measured':>9} {'ratio':>7}")
        for name in [chosen] if chosen else CASES:
            run = run_alone(models, name)
            ratio = run.measured / run.planned
            sizes = (f"{size / 2**20:,.0f} MiB" for size in (run.planned, run.measured))
            print(f"{name:<24} {' '.join(f'{s:>9}' for s in sizes)} {ratio:>7.3f}")
            bars.append(
                Bar(f"{name}: |measured / planned - 1|", abs(ratio - 1), TOLERANCE)
            )
    print()
    return 0 if show(bars) else 1


if __name__ == "__main__":
    sys.exit(main())
