"""Files that appear whole or not at all, and only once.

A file is written beside its name, forced to disk, and then linked to its name. Linking
fails where the name is taken, so that of several writers one wins and the others learn
of it; no lock has to hold for that.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align.errors import MachineError

PART = ".part"
"""Suffix of what is not finished; such a file may be deleted at any time."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoRoomError(MachineError):
    """The disk, a quota or a limit refused a file; nothing half written is left."""


def part_of(path: Path) -> Path:
    """A name beside ``path`` that no other process writes."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PART}")


@contextmanager
def beside(path: Path, needed: int) -> Iterator[Path]:
    """Give a temporary name beside ``path``; whatever happens, it is gone afterwards.

    Args:
        path: the final name, whose folder exists.
        needed: bytes that are to be written, for the error message.

    Yields:
        Where to write before :func:`publish`.

    Raises:
        NoRoomError: the bytes did not fit; says how many were needed and are free,
            or that a file may not be so large.
    """
    part = part_of(path)
    try:
        yield part
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        if error.errno == errno.EFBIG:
            raise NoRoomError(
                f"{path} needs {needed:,} bytes, more than a file of this process "
                "(`ulimit -f`) or of its file system may have; raise that limit or "
                "give another folder, then run the same command: what is finished is "
                "kept"
            ) from error
        free = shutil.disk_usage(path.parent).free
        reason = os.strerror(error.errno)
        raise NoRoomError(
            f"{path} needs {needed:,} bytes, and {free:,} are free there ({reason}); "
            "free some space, raise the quota or give another folder, then run the "
            "same command: what is finished is kept"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> bool:
    """Give a finished file its name, unless somebody else was first.

    Args:
        part: a whole file, already forced to disk, in the folder of ``path``.
        path: the name.

    Returns:
        Whether it is our file that now has the name.
    """
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError as error:  # no hard links on this file system
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        if path.exists():
            return False
        os.replace(part, path)
    _sync_folder(path.parent)
    return True


def put(part: Path, path: Path) -> None:
    """Give a finished file its name, in place of what may stand there."""
    os.replace(part, path)
    _sync_folder(path.parent)


def write_whole(path: Path, data: bytes, *, replace: bool = False) -> bool:
    """Write a small file at once.

    Args:
        path: its name.
        data: its bytes.
        replace: take the place of an older file.

    Returns:
        Whether it is our file that has the name; always so with ``replace``.

    Raises:
        NoRoomError: no room.
    """
    with beside(path, len(data)) as part:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            put(part, path)
            return True
        return publish(part, path)


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut; some network file systems cannot."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
