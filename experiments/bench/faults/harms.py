"""What may become of one file: a flipped bit, a cut, a loss, somebody else's place."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FLIP, CUT, EMPTY, LOSE = "flip", "cut", "empty", "lose"
SWAP, LINK, FOLDER = "swap", "link", "folder"
HARMS = (FLIP, FLIP, FLIP, FLIP, FLIP, CUT, EMPTY, LOSE, SWAP, LINK, FOLDER)
"""Drawn in turn: every second one is a flipped bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Harm:
    """What is done to a file, so that it can be done again."""

    kind: str
    at: int = 0
    """The bit that is flipped, or the bytes that a cut leaves."""
    other: str = ""
    """Of a swap or a link: the other file, beside the place's folder."""

    def __str__(self) -> str:
        """As a table shows it."""
        shown = {FLIP: f" {self.at}", CUT: f" to {self.at}"}.get(self.kind, "")
        return self.kind + shown + (f" {self.other}" if self.other else "")


def draw_harm(
    kind: str, file: Path, like: Sequence[Path], place: Path, draw: random.Random
) -> Harm:
    """Choose where a harm strikes.

    Args:
        kind: one of ``HARMS``.
        file: that is harmed.
        like: files of the same class.
        place: the folder that holds all of them.
        draw: decides.

    Returns:
        A flip is none in an empty file, a swap none without another file that differs:
        both are a loss then. A link without one leads nowhere.
    """
    size = file.stat().st_size
    data = file.read_bytes()
    others = [str(o.relative_to(place)) for o in like if o.read_bytes() != data]
    other = draw.choice(others) if others else ""
    if (kind in (FLIP, CUT) and not size) or (kind == SWAP and not other):
        return Harm(kind=LOSE)
    if kind == FLIP:
        return Harm(kind=kind, at=draw.randrange(8 * size))
    if kind == CUT:
        return Harm(kind=kind, at=draw.randrange(size))
    return Harm(kind=kind, other=other if kind in (SWAP, LINK) else "")


def do_harm(harm: Harm, file: Path, place: Path) -> None:
    """Harm a file in place."""
    data = file.read_bytes()
    if harm.kind == FLIP:
        flipped = bytearray(data)
        flipped[harm.at // 8] ^= 1 << harm.at % 8
        file.write_bytes(flipped)
    elif harm.kind in (CUT, EMPTY):
        file.write_bytes(data[: harm.at])
    elif harm.kind == SWAP:
        other = place / harm.other
        file.write_bytes(other.read_bytes())
        other.write_bytes(data)
    else:
        file.unlink()
        if harm.kind == LINK:
            file.symlink_to(place / (harm.other or "nowhere"))
        elif harm.kind == FOLDER:
            file.mkdir()


def restore(whole: Path, place: Path) -> None:
    """Put everything back as it was before any harm."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place, symlinks=True)
