"""The tensors of a safetensors file, written in pieces."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

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
