"""Files that appear whole or not at all, and only once.

A file is written beside its name, forced to disk, and then linked to its name. Linking
fails where the name is taken, so that of several writers one wins and the others learn
of it; no lock has to hold for that.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from align.errors import MachineError

PART = ".part"
"""Suffix of what is not finished; such a file may be deleted at any time."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}


Entries = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Type and shape of the tensors of a file, by name."""


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
        NoRoomError: the bytes did not fit; says how many were needed and are free.
    """
    part = part_of(path)
    try:
        yield part
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(path.parent).free
        reason = os.strerror(error.errno)
        raise NoRoomError(
            f"{path} needs {needed:,} bytes, and {free:,} are free there ({reason}); "
            "free some space, raise the limit or give another folder, then run the "
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


def write_tensors(
    path: Path, tensors: Mapping[str, Sequence[Tensor]]
) -> tuple[int, str]:
    """Write a safetensors file of tensors that come in pieces, and digest it meanwhile.

    The library's own ``save_file`` wants every tensor in one piece and took three
    times as long as writing the same bytes; the format is a length, a JSON header and
    the data.

    Args:
        path: to write; forced to disk on return.
        tensors: the pieces of each tensor, (N_i, ...) of one dtype and equal beyond
            the first axis, on the CPU; at least one piece each.

    Returns:
        Bytes and SHA-256 of the file.
    """
    pieces, header = _layout(tensors)
    views = [memoryview(header), *pieces]
    with path.open("wb") as file, ThreadPoolExecutor(1, "digest") as pool:
        # hashlib lets go of the interpreter: a second core digests while this one
        # copies, and goes on while the disk takes the bytes.
        digest = pool.submit(_digest, views)
        for view in views:
            file.write(view)
        file.flush()
        os.fsync(file.fileno())
        return sum(view.nbytes for view in views), digest.result()


def _digest(views: Sequence[memoryview]) -> str:
    digest = hashlib.sha256()
    for view in views:
        digest.update(view)
    return digest.hexdigest()


def _layout(
    tensors: Mapping[str, Sequence[Tensor]],
) -> tuple[list[memoryview], bytes]:
    entries = {
        name: (parts[0].dtype, (sum(len(part) for part in parts), *parts[0].shape[1:]))
        for name, parts in tensors.items()
    }
    pieces = [
        _bytes_of(part)
        for name in _order(entries)
        for part in tensors[name]
        if part.numel()
    ]
    return pieces, header_of(entries)


def header_of(entries: Entries) -> bytes:
    """How a safetensors file begins: a length, and JSON that names its tensors."""
    header: dict[str, object] = {}
    start = 0
    for name in _order(entries):
        dtype, shape = entries[name]
        size = math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": shape,
            "data_offsets": [start, start + size],
        }
        start += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _order(entries: Entries) -> list[str]:
    """Wider elements first, so that every tensor begins at a multiple of its width."""
    return sorted(entries, key=lambda name: (-entries[name][0].itemsize, name))


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return memoryview(flat.numpy().data)


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut; some network file systems cannot."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
