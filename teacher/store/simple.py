"""Write and read KV that are in memory already, without planning an extraction."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from align.errors import InputError
from align.kv import KV
from teacher.store.encoding import measure_constants
from teacher.store.manifest import (
    MANIFEST,
    Encoding,
    Manifest,
    Plan,
    Sample,
    Shape,
)
from teacher.store.packing import EncodedSample, StoredSample
from teacher.store.reader import KVStore, all_origins, text_digest
from teacher.store.records import Constants
from teacher.store.writer import StoreWriter, open_store

SHARD_BYTES = 1 << 30


def save_kvs(
    kvs: Sequence[KV],
    path: str | Path,
    *,
    texts: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    encoding: Encoding | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Write KV to a folder, completely or not at all.

    Args:
        kvs: one or more of one teacher, each of one text (B = 1).
        path: folder to make.
        texts: the texts they were made of; their digests are stored, by which
            :meth:`KVStore.find` finds them.
        provenance: JSON values about their making.
        overwrite: replace a store of that name.
        encoding: None keeps the values as they are.
        shard_bytes: start a new file beyond this size.

    Returns:
        The manifest as written.

    Raises:
        FileExistsError: ``path`` exists and is not to be, or is no KV store.
        ValueError: texts and KV differ in number, or KV in their sizes.
    """
    if texts is not None and len(texts) != len(kvs):
        raise InputError(f"{len(texts)} texts for {len(kvs)} KV; give one text per KV")
    path = Path(path)
    _check_target(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = encoding or _as_they_are(kvs)
    plan = Plan(
        form="raw",
        shape=_shape_of(kvs),
        encoding=encoding,
        fingerprint=dict(provenance or {}),
        samples=len(kvs),
    )
    work = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    work.mkdir()  # by the umask, unlike tempfile's private folders
    try:
        writer = open_store(work, plan, _constants(kvs, encoding))
        manifest = _write(writer, kvs, texts, shard_bytes)
        if path.exists():
            old = work.with_name(work.name + ".old")
            path.rename(old)
            work.rename(path)
            shutil.rmtree(old)
        else:
            work.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def load_kvs(path: str | Path) -> list[KV]:
    """Read a whole store, verified; :class:`KVStore` reads single samples.

    A run reads samples through ``KVStore``, as this does one after another.

    Raises:
        FileNotFoundError: no finished store there.
        ValueError: a file is damaged; the text names it.
    """
    store = KVStore(path)
    return [store[index] for index in range(len(store))]


def _write(
    writer: StoreWriter,
    kvs: Sequence[KV],
    texts: Sequence[str] | None,
    shard_bytes: int,
) -> Manifest:
    pending: list[tuple[Sample, EncodedSample]] = []
    size = first = number = 0
    for index, kv in enumerate(kvs):
        digest = None if texts is None else text_digest(texts[index])
        k, v = kv.flat()
        origin = all_origins(kv.num_tokens) * kv.mask[0].cpu()
        stored = StoredSample(k[:, 0].detach().cpu(), v[:, 0].detach().cpu(), origin)
        sample = Sample(tokens=kv.num_tokens, text_sha256=digest)
        pending.append((sample, writer.encode(stored)))
        size += writer.sample_bytes(kv.num_tokens)
        if size >= shard_bytes or index == len(kvs) - 1:
            writer.write(number, first, pending)
            number, first, size, pending = number + 1, index + 1, 0, []
    return writer.finish(number)


def _as_they_are(kvs: Sequence[KV]) -> Encoding:
    kinds = {str(kv.k.dtype).removeprefix("torch.") for kv in kvs}
    if len(kinds) > 1:
        raise InputError(
            f"the KV are of several types ({', '.join(sorted(kinds))}); a store holds "
            "one teacher's: convert them, or give an encoding"
        )
    return Encoding.model_validate({"name": kinds.pop() if kinds else "float32"})


def _shape_of(kvs: Sequence[KV]) -> Shape:
    shapes = set()
    for index, kv in enumerate(kvs):
        if kv.k.shape[1] != 1:
            raise InputError(
                f"kvs[{index}] holds {kv.k.shape[1]} texts; give one KV per text"
            )
        shapes.add((kv.num_layers, kv.num_heads, kv.k.shape[-1], kv.v.shape[-1]))
    if len(shapes) != 1:
        raise InputError(
            f"the KV have {len(shapes)} shapes (layers, heads, key size, value size) "
            f"{sorted(shapes)}; a store holds one or more KV of one teacher"
        )
    ((layers, heads, k_dim, v_dim),) = shapes
    return Shape(
        layers=layers, heads=heads, k_width=heads * k_dim, v_width=heads * v_dim
    )


def _constants(kvs: Sequence[KV], encoding: Encoding) -> Constants | None:
    if encoding.name in ("float32", "float16", "bfloat16"):
        return None
    out: Constants = {}
    for part in ("k", "v"):
        flat = [kv.flat()[part == "v"][:, 0, 1:] for kv in kvs]
        measured = measure_constants(torch.cat(flat, 1).cpu(), encoding.rank)
        out[f"{part}.mean"] = measured.mean
        if measured.basis is not None:
            out[f"{part}.basis"] = measured.basis
    return out


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not (path / MANIFEST).is_file():
        raise FileExistsError(f"{path} exists and is no KV store; give another path")
    if not overwrite:
        raise FileExistsError(
            f"{path} already holds KV; give another path or overwrite=True"
        )
