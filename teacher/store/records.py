"""Read and check the files that a store consists of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from align.support.digest import sha256_of
from teacher.store.encoding import ChannelConstants, Codec, bytes_per_sample
from teacher.store.manifest import (
    PLAN,
    FileRecord,
    Plan,
    ShardRecord,
    StoreError,
    read_sealed,
)
from teacher.store.named import NamedCodec
from teacher.store.packing import PARTS, Codecs, Part

_ADVICE = "run `mtkd store repair` on the store"

Constants = dict[str, Tensor]
"""What all shards are made with: ``k.mean``, ``k.basis``, and what a form adds."""


def record_name(number: int) -> str:
    """The file that says a shard is finished."""
    return f"kv-{number:05d}.json"


def read_record(path: Path, number: int, plan: str) -> ShardRecord | None:
    """Read a finished shard's record.

    Args:
        path: the store.
        number: of the shard.
        plan: digest of the store's plan.

    Raises:
        StoreError: it is damaged, of another shard, or of another plan.
    """
    file = path / record_name(number)
    if not file.is_file():
        return None
    record = read_sealed(file, ShardRecord)
    if record.number != number:
        raise StoreError(
            f"{file} is the record of shard {record.number}: a file was renamed; run "
            "`mtkd store repair` on the store"
        )
    if record.plan != plan:
        raise StoreError(
            f"{file} belongs to an extraction by another plan (another teacher, "
            "revision, text or encoding); run `mtkd store repair` on the store"
        )
    return record


def read_constants(path: Path, plan: Plan) -> Constants:
    """Read and check what all shards were made with.

    Raises:
        StoreError: missing or damaged.
    """
    from safetensors.torch import load_file

    if plan.constants is None:
        return {}
    return load_file(check_file(path, plan.constants, PLAN))


def check_file(path: Path, record: FileRecord, said_by: str) -> Path:
    """Compare a file with what vouches for it.

    Args:
        path: the store.
        record: of the file.
        said_by: name of the store's file that holds the record.

    Returns:
        Where the file is.

    Raises:
        StoreError: missing, of another size, or of another digest.
        OutsideError: it is not in the store.
    """
    file = check_size(path, record, said_by)
    if sha256_of(file) != record.sha256:
        raise StoreError(f"{file} does not match its sha256: damaged; {_ADVICE}")
    return file


def check_size(path: Path, record: FileRecord, said_by: str) -> Path:
    """:func:`check_file` without reading it."""
    file = record.path_in(path, said_by)
    if not file.is_file():
        raise StoreError(f"{file} is missing, though it was written; {_ADVICE}")
    size = file.stat().st_size
    if size != record.size:
        raise StoreError(
            f"{file} has {size:,} bytes, its record says {record.size:,}; {_ADVICE}"
        )
    return file


def codecs_of(plan: Plan, constants: Constants) -> Codecs:
    """The encoders and decoders of a store."""
    shape, encoding = plan.shape, plan.encoding

    def codec(part: Part, width: int) -> Codec:
        mean = constants.get(f"{part}.mean")
        channels = None
        if mean is not None:
            channels = ChannelConstants(mean, constants.get(f"{part}.basis"))
        return Codec(encoding, width, channels)

    codecs: Codecs = {"k": codec("k", shape.k_width), "v": codec("v", shape.v_width)}
    if plan.outputs is not None:
        codecs["o"] = NamedCodec(plan.outputs)
    return codecs


def sample_bytes(codecs: Codecs, layers: int, tokens: int) -> int:
    """Bytes of one sample before lossless compression, without headers."""
    out = sum(bytes_per_sample(codecs[part], layers, tokens) for part in PARTS)
    if "o" in codecs:
        out += bytes_per_sample(codecs["o"], 1, tokens)
    return out + tokens + torch.float32.itemsize  # origin, bits per character


def file_record(file: Path) -> FileRecord:
    """Vouch for a file as it is."""
    return FileRecord(file=file.name, size=file.stat().st_size, sha256=sha256_of(file))


def shard_ranges(numbers: Sequence[int]) -> str:
    """Write numbers shortly: ``0-2, 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
