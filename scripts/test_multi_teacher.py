"""Check every module on real small inputs and show what was found.

    python scripts/test_multi_teacher.py               # everything
    python scripts/test_multi_teacher.py fuse align    # these packages

Each line of the table is one fact that the platform rests on, tried on the tiny zoo
(built on first use in half a minute, then cached). Exit status 1 when one does not
hold.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from pathlib import Path

PACKAGES = ("align", "teacher", "fuse", "student", "names")
"""Modules of ``scripts/checks``, in the order of the data; ``names`` is plugins and
experiments."""


def main(words: list[str]) -> int:
    """Run the named checks, or all; gives the exit status."""
    if {"-h", "--help"} & set(words):
        print(f"{__doc__}\nPackages: {', '.join(PACKAGES)}.")
        return 0
    for word in words:
        if word not in PACKAGES:
            print(f"no checks for {word!r}; give some of {', '.join(PACKAGES)}")
            return 2
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root / "scripts"), str(root)]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for package in words or PACKAGES:
        importlib.import_module(f"checks.{package}")

    import torch
    from checks.table import CHECKS, run

    torch.manual_seed(0)
    return 1 if run(CHECKS) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
