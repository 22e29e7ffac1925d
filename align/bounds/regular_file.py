"""Files that end: no pipe, device or socket is opened, which may block or never end."""

from __future__ import annotations

import os
import stat
from functools import cache
from io import BufferedReader
from pathlib import Path

from align.errors import InputError, MissingFileError

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_ADVICE = "write what it gives into a file, and give that"
_SYSTEM = ("/proc", "/sys")


def opened(path: Path) -> BufferedReader:
    """Open a file for its bytes, once it is seen to be one.

    Raises:
        InputError: a folder, a pipe, a socket, a device or a file of the system's, or
            it cannot be read.
        MissingFileError: there is none.
    """
    refuse_special(path)  # unopened: some devices act on that
    try:
        # A pipe put in the file's place since would make a plain open wait
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        leads = "is a link that leads nowhere" if path.is_symlink() else "is not there"
        begins = "; a relative path begins at the folder the command runs in"
        leads += "" if path.is_absolute() else begins
        raise MissingFileError(f"{path} {leads}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise InputError(f"{shown(path)} cannot be read ({reason(error)})") from None
    try:
        _refuse(os.fstat(handle), path, folders=True)
    except InputError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def bytes_of(path: Path, most: int, what: str) -> bytes:
    """All of a file that has a small part to play.

    Args:
        path: of the file.
        most: bytes it may have.
        what: such as ``a config``, for the error.

    Raises:
        InputError: larger, or as of :func:`opened`.
        MissingFileError: there is none.
    """
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        size = path.stat().st_size
        raise InputError(
            f"{path} has {size:,} bytes, and {what} may have {most:,}; is it the right "
            "file?"
        )
    return content


def refuse_special(path: Path) -> None:
    """See that what lies somewhere may be opened, where anything does.

    Raises:
        InputError: a pipe, a socket, a device or a file of the system's.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return  # whoever opens it says so
    _refuse(status, path, folders=False)


def refuse_special_files(folder: Path) -> None:
    """The same of every file beside each other in a folder that others will read."""
    for path in _beside(folder):
        refuse_special(path)


def refuse_pipes(folder: Path) -> None:
    """See that nothing in a folder that is written to waits for a reader.

    Raises:
        InputError: a pipe.
    """
    for path in _beside(folder):
        if path.is_fifo():
            refuse_special(path)


def _beside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []


def shown(path: Path) -> str:
    """A path in an error: as it is, or escaped where a terminal would not show it."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def reason(error: OSError | ValueError) -> str:
    """What the system says of a path."""
    return str(getattr(error, "strerror", None) or error)


def _refuse(status: os.stat_result, path: Path, folders: bool) -> None:
    if folders and stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder; give a file")
    for is_kind, kind in _KINDS:
        if is_kind(status.st_mode):
            raise InputError(f"{path} is {kind} and not a file; {_ADVICE}")
    if status.st_dev in _system_devices() and not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a file of the system's; {_ADVICE}")


@cache
def _system_devices() -> frozenset[int]:
    """Where files say that they are empty and are not, and some never end."""
    devices = set()
    for folder in _SYSTEM:
        try:
            devices.add(os.stat(folder).st_dev)
        except OSError:
            continue
    return frozenset(devices - {os.stat("/").st_dev})
