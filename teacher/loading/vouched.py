"""A student's folder is what was written, before anything in it is used."""

from __future__ import annotations

from pathlib import Path

from align.errors import InputError
from align.foreign.marker import MARKER, read_marker
from align.foreign.seal import DamageError, read_sealed

STUDENT = "student"
"""The folder of a phase's student; what vouches for it lies beside it."""
UNTRANSFORMED = "untransformed"
"""The folder, beside it, of the weights as they were trained, where transforms changed
what the student computes by."""
PEERS = "peers"
"""The folder, beside it, of the phase's peers, each under its name."""


def check_vouched(name: str, source: str | Path) -> None:
    """Compare a model's files with what was noted when they were written.

    Students that a run exports, and those it leaves after every phase, come with
    digests; of other models nothing is known, and nothing is read.

    Args:
        name: what the user calls the model.
        source: its folder, or its name on the hub.

    Raises:
        InputError: a file is damaged, missing or added.
    """
    folder = Path(source)
    try:
        if (folder / MARKER).is_file():
            # One without a seal is not ours: no version exported that.
            if read_sealed(folder / MARKER)[1]:
                read_marker(folder, digests=True)
        elif folder.name in (STUDENT, UNTRANSFORMED):
            read_marker(folder.parent, digests=True)
        elif folder.parent.name == PEERS:
            read_marker(folder.parent.parent, digests=True)
    except DamageError as error:
        raise InputError(f"model {name!r}: {error}; {_way_on(folder)}") from None


def _way_on(folder: Path) -> str:
    if (folder / MARKER).is_file():
        return (
            "`mtkd train` with its run's config writes it anew; if it was changed on "
            f"purpose, delete {folder / MARKER}"
        )
    return (
        "put back what was changed, or copy the student elsewhere, where nothing "
        f"vouches for it; deleting {folder.parent} has the phase trained again"
    )
