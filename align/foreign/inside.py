"""Names that a file gives stay inside the folder of that file.

A store, a run or a model may be somebody else's, and what lies in it says which files
belong to it. Whoever goes by such a name asks here first: otherwise `../../notes.txt`
would be read, written or removed as if it were part of the folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from align.errors import InputError

_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ADVICE = (
    "it was damaged, or made to reach other files: do not use it, and get the folder "
    "anew from where it comes"
)


class OutsideError(InputError):
    """A file names, or a link leads to, what is not inside its folder."""


def file_inside(folder: Path, name: object, said_by: Path) -> Path:
    """The file of a folder that a name means, which was read from a file.

    Args:
        folder: where it has to lie.
        name: relative to the folder, with ``/`` between its parts.
        said_by: the file that gives the name, for the message.

    Returns:
        ``folder / name``; whether it exists is not asked.

    Raises:
        OutsideError: see :func:`check_name`; or it lies behind a link that leads out
            of the folder.
    """
    path = folder / check_name(name, said_by)
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise OutsideError(
            f"{said_by} names the file {str(name)!r}, which leads out of {folder} to "
            f"{real}; {_ADVICE}"
        )
    return path


def check_name(name: object, said_by: Path) -> str:
    """A name that was read from a file, seen to lead nowhere but down.

    Args:
        name: of a file, relative to a folder.
        said_by: the file that gives the name, for the message.

    Raises:
        OutsideError: it is no text, empty, absolute, holds ``..``, a drive, a backslash
            or a control character.
    """
    whole = isinstance(name, str) and not _CONTROL.search(name) and "\\" not in name
    if whole and not _DRIVE.match(str(name)):
        path = PurePosixPath(str(name))
        if path.parts and not path.is_absolute() and ".." not in path.parts:
            return str(name)
    shown = repr(name) if len(repr(name)) < 200 else repr(name)[:200] + "…"
    raise OutsideError(
        f"{said_by} names the file {shown}, which is no file of its folder; {_ADVICE}"
    )


def refuse_links_out(folder: Path) -> None:
    """See that no link in a folder, at any depth, leads out of it.

    What is read or written by a name of our own choice would be somewhere else, too,
    where a link stands at that name. The folder may itself be a link.

    Raises:
        OutsideError: names the link and where it leads.
    """
    real_folder = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            link = Path(place, name)
            if not link.is_symlink():
                continue
            real = Path(os.path.realpath(link))
            if not real.is_relative_to(real_folder):
                raise OutsideError(
                    f"{link} is a link that leads out of {folder} to {real}; nothing "
                    "is read or written through it: put the files themselves there, "
                    "or remove the link"
                )
