"""What became of a command that read a damaged file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from experiments.bench.faults.apart import Ending

CLEAR, MENDED, HARMLESS = "clear", "mended", "harmless"
SILENT, NAMELESS = "silent", "nameless"
VERDICTS = {
    CLEAR: "said which file or folder is damaged, and stopped or left it out",
    MENDED: "made the file again or passed it over aloud; the result is the same",
    HARMLESS: "did not need it: the result is the same",
    SILENT: "the result is another one and nobody said so",
    NAMELESS: "failed without naming the file, or by a mistake of the program",
}
WRONG = (SILENT, NAMELESS)
ERROR = "mtkd: error: "
"""How the one line begins that a command ends with."""


def names(said: str, file: Path, root: Path) -> bool:
    """Whether a text names a file, so that somebody finds it.

    By its path; by a folder it lies in, deeper than the run or store; by its folder
    and its name; or, in a checkpoint, a phase or a store, by a file beside it: of two
    that disagree nobody knows which is damaged. A phase's settings lie beside its
    folder, as the folder's name with an ending.
    """
    if str(file) in said or (str(file.parent) in said and file.name in said):
        return True
    words = re.findall(re.escape(str(root)) + r"[^\s'\",:;()]*", said)
    paths = [Path(word.rstrip("./")) for word in words]
    depth = len(root.parts)
    return any(
        (len(path.parts) > depth + 1 and str(file).startswith(str(path)))
        or (len(path.parts) > depth + 3 and path.parent == file.parent)
        for path in paths
    )


def judge(
    ending: Ending, files: list[Path], place: Path, same: bool, restored: bool
) -> str:
    """Say what a reader made of damage.

    Args:
        ending: of the reader.
        files: that were damaged.
        place: the folder they lie in.
        same: whether its result is that of undamaged files.
        restored: whether the files are now as an undamaged reader leaves them.
    """
    said = ending.err + ending.out
    named = any(names(said, file, place) for file in files)
    if ending.code not in (0, 2) or "Traceback" in said or "should not have" in said:
        return NAMELESS
    if ending.code == 2:
        lines = [row for row in ending.err.splitlines() if row.startswith(ERROR)]
        return CLEAR if named and len(lines) <= 1 else NAMELESS
    if same:
        return MENDED if named or restored else HARMLESS
    return CLEAR if named else SILENT


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs between two observations."""
    every = [*before, *(name for name in after if name not in before)]
    return [name for name in every if before.get(name) != after.get(name)]
