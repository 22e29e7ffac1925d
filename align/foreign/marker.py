"""A folder whose files are vouched for by a marker in it, which is written last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.foreign.inside import file_inside
from align.foreign.seal import DamageError, read_sealed, sealed_text
from align.support.digest import sha256_of

MARKER = "complete.json"
"""Size and SHA-256 of every file, and what the owner wants kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """What a marker says, once its folder was seen to be as it says."""

    state: dict[str, Any]
    """What the owner wanted kept."""
    sealed: bool
    """False for those of earlier versions, in which damage to a number is not found."""


def marker_text(folder: Path, state: Mapping[str, Any]) -> str:
    """The marker of a folder as it is: size and SHA-256 of every file in it."""
    files = files_in(folder)
    return sealed_text(
        {
            "files": {name: file.stat().st_size for name, file in files.items()},
            "sha256": {name: sha256_of(file) for name, file in files.items()},
            "state": dict(state),
        }
    )


def files_in(folder: Path, marker: str = MARKER) -> dict[str, Path]:
    """The files below a folder by their name in it, but for its marker.

    Hidden ones are left out: file managers and network file systems put theirs
    anywhere, and nothing that loads a folder reads them.
    """
    every = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    hidden = {name for name in every if any(p[:1] == "." for p in name.split("/"))}
    return {n: f for n, f in every.items() if n not in hidden and n != marker}


def read_marker(folder: Path, digests: bool) -> Marked | None:
    """See that a folder holds what its marker lists, and nothing else.

    Args:
        folder: what :func:`marker_text` was written into.
        digests: also compare digests, which reads every file.

    Returns:
        None where there is no marker.

    Raises:
        DamageError: the marker or a file is not as it was written, or a file is there
            that was not.
        OutsideError: the marker lists a file that is not in the folder.
    """
    marker = folder / MARKER
    if not marker.is_file():
        return None
    record, sealed = read_sealed(marker)
    sizes, known = record.get("files"), record.get("sha256")
    state = record.get("state")
    if known is None and not sealed:
        known = {}  # of versions that noted none
    if not isinstance(state, dict) or not isinstance(sizes, dict):
        raise DamageError(f"{marker} is damaged (it is no marker)")
    if record.keys() - {"files", "sha256", "state"}:
        raise DamageError(f"{marker} is damaged (it is no marker)")
    if not isinstance(known, dict) or known.keys() not in ({}.keys(), sizes.keys()):
        raise DamageError(f"{marker} is damaged (its digests are of other files)")
    if sealed and known.keys() != sizes.keys():
        raise DamageError(f"{marker} is damaged (it lacks digests)")
    fault = changed_file(folder, sizes, known if digests else {})
    if fault:
        raise DamageError(f"{folder} is damaged: {fault}")
    return Marked(state=state, sealed=sealed)


def changed_file(
    folder: Path,
    sizes: Mapping[str, int],
    digests: Mapping[str, str],
    marker: str = MARKER,
) -> str | None:
    """Say of the first file that is not as it was written what is wrong with it.

    Args:
        folder: their place.
        sizes: every file's, in bytes; one that is there and not here is a fault.
        digests: SHA-256 of those that are to be read.
        marker: the file that says so.

    Raises:
        OutsideError: one is none of the folder's.
    """
    there = files_in(folder, marker)
    for name, size in sizes.items():
        file_inside(folder, name, folder / marker)
        if name not in there:
            return f"{name} is missing"
        bytes_there = there[name].stat().st_size
        if bytes_there != size:
            return f"{name} has {bytes_there} bytes, not {size}"
        if name in digests and digests[name] != sha256_of(there[name]):
            return f"{name} holds other bytes than were written"
    added = sorted(there.keys() - sizes.keys())
    return f"{added[0]} was not written with it" if added else None
