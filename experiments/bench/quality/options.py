"""What the command line of the quality bench takes."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

SIZES = {
    "small": ("quality", 600),
    "zoo": ("quality_zoo", 300),
    "disjoint": ("", 120),
    "same": ("", 150),
    "real": ("", 60),
}
"""Config and optimiser steps of each size."""
DISJOINT, SAME = "disjoint", "same"
REAL = "real"
"""Sizes whose texts, models and config are made where they are missing; the last one's
teachers are pretrained, and fetched by ``mtkd models fetch``."""
TEXTS = 480
"""Of the student, where teachers are pretrained."""
ADAPTING_STEPS = 150
"""Of a teacher that is given the student's vocabulary."""
HALF = "half"
"""As many as half of the student's."""
TEACHER_STEPS = 150
"""Of each teacher of ``disjoint``."""


def parser() -> argparse.ArgumentParser:
    """What is measured, then where and with what text."""
    made = argparse.ArgumentParser(
        prog="experiments.bench.quality",
        description="Measure what teachers are worth to a student.",
    )
    made.add_argument("--size", choices=SIZES, default="small")
    made.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help="arms, or groups: core (default), phases, questions, adapted, inside, "
        "carried, agglomerative, peers, past, tuned, matching, all; of --size "
        "disjoint: weighed (default), tuned, selected, ordered, heard, all; of --size "
        "real: real (default), tuned, selected, ordered, all; see --list",
    )
    made.add_argument("--list", action="store_true", help="say what the arms are")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    made.add_argument(
        "--steps",
        nargs="+",
        type=_positive,
        default=[],
        help="in place of the size's own; several give curves",
    )
    made.add_argument(
        "--jobs",
        type=_positive,
        default=os.cpu_count() or 1,
        help="runs at once, on one thread each (one for each core)",
    )
    made.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        metavar="MINUTES",
        help="of the processor, for each of --steps, after which nothing more is "
        "begun; the same command goes on",
    )
    made.add_argument("--out", type=Path, default=Path("runs/quality"))
    made.add_argument("--picture", type=Path, help="PNG; default: OUT/…/quality.png")
    made.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings for all arms; give another --out with them",
    )
    _add_of_one_size(made)
    return made


def _add_of_one_size(made: argparse.ArgumentParser) -> None:
    """What only some sizes read."""
    made.add_argument(
        "--texts",
        nargs="+",
        type=_text_of,
        default=[],
        metavar="DOMAIN=PATH",
        help="of --size disjoint: text beside the embedded domains, or in their place",
    )
    made.add_argument(
        "--domains",
        nargs="+",
        default=[],
        metavar="DOMAIN",
        help="of --size disjoint: those that take part (all)",
    )
    made.add_argument(
        "--teacher-steps",
        type=_positive,
        default=TEACHER_STEPS,
        help=f"of --size disjoint: of every teacher ({TEACHER_STEPS})",
    )
    made.add_argument(
        "--adapting-steps",
        type=_steps_or_half,
        default=ADAPTING_STEPS,
        metavar="STEPS",
        help="of --size zoo: of a teacher that is given the student's vocabulary, or "
        f"{HALF}, for half of the student's ({ADAPTING_STEPS})",
    )
    made.add_argument(
        "--text-count",
        type=_positive,
        default=TEXTS,
        help=f"of --size real: texts that the student reads ({TEXTS})",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _text_of(given: str) -> tuple[str, Path]:
    domain, equals, path = given.partition("=")
    if not (domain and equals and path):
        raise argparse.ArgumentTypeError(f"{given!r} is not DOMAIN=PATH")
    return domain, Path(path)


def _steps_or_half(text: str) -> int | str:
    return HALF if text == HALF else _positive(text)
