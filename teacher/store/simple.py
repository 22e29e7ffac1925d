"""Keys and values on disk: safetensors shards and a manifest that vouches for them.

A store is a folder. It appears under its name only when complete: shards are
written beside it, the manifest last, and the folder is renamed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from align.kv import KV

MANIFEST = "manifest.json"
SHARD_BYTES = 1 << 30


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Strict):
    """One safetensors file."""

    file: str
    size: int
    sha256: str


class Sample(_Strict):
    """One KV and where it lies."""

    shard: int
    tokens: int
    text_sha256: str | None = None


class Manifest(_Strict):
    """What a store holds; written last."""

    format: str = "mtkd-kv"
    version: int = 1
    shards: list[Shard]
    samples: list[Sample]
    provenance: dict[str, Any]
    """Who made the KV: model, revision, layers and the like."""


class KVStore:
    """Reads single samples, and single layers of them, from a store.

    Args:
        path: folder that :func:`save_kvs` wrote.
        verify: compare each shard with its digest when it is first read.

    Raises:
        FileNotFoundError: no store there, or one that was never finished.
        ValueError: the manifest is not one of ours.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        """Read the manifest; shards are opened when asked for."""
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        self._unverified = set(range(len(self.manifest.shards))) if verify else set()

    def __len__(self) -> int:
        """Samples."""
        return len(self.manifest.samples)

    def __getitem__(self, index: int) -> KV:
        """All layers of one sample."""
        return self.read(index)

    def read(self, index: int, layers: Sequence[int] | None = None) -> KV:
        """Read one sample, on the CPU.

        Args:
            index: of the sample, in the order of saving.
            layers: stored layers to read, in this order; None means all.

        Raises:
            IndexError: no such sample.
            ValueError: its shard is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(
                f"{self.path} holds samples 0..{len(self) - 1}, not {index}"
            )
        number = self.manifest.samples[index].shard
        with self._opened(number) as file:
            if layers is None:
                k, v = file.get_tensor(f"{index}.k"), file.get_tensor(f"{index}.v")
            else:
                k, v = (_pick(file.get_slice(f"{index}.{x}"), layers) for x in "kv")
            return KV(k, v, file.get_tensor(f"{index}.mask"))

    @contextmanager
    def _opened(self, number: int) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        shard = self.manifest.shards[number]
        file = self.path / shard.file
        if number in self._unverified:
            _verify(file, shard)
            self._unverified.discard(number)
        try:
            with safe_open(file, framework="pt") as opened:
                yield opened
        except SafetensorError as error:
            raise ValueError(
                f"{file} cannot be read: {error}; extract again"
            ) from error


def save_kvs(
    kvs: Sequence[KV],
    path: str | Path,
    *,
    texts: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Write KV to a folder, completely or not at all.

    Args:
        kvs: one or more; they may differ in length.
        path: folder to make.
        texts: the texts they were made of; their digests are stored, so that a
            reader can tell whether KV and text belong together.
        provenance: JSON values about their making.
        overwrite: replace a store of that name.
        shard_bytes: start a new file beyond this size.

    Returns:
        The manifest as written.

    Raises:
        FileExistsError: ``path`` exists and is not to be, or is no KV store.
        ValueError: texts and KV differ in number.
    """
    if texts is not None and len(texts) != len(kvs):
        raise ValueError(f"{len(texts)} texts for {len(kvs)} KV; give one text per KV")
    path = Path(path)
    _check_target(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    work.mkdir()  # by the umask, unlike tempfile's private folders
    try:
        manifest = _write(work, kvs, texts, dict(provenance or {}), shard_bytes)
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

    Raises:
        FileNotFoundError: no finished store there.
        ValueError: a file is damaged; the text names it.
    """
    store = KVStore(path)
    return [store[index] for index in range(len(store))]


def _write(
    folder: Path,
    kvs: Sequence[KV],
    texts: Sequence[str] | None,
    provenance: dict[str, Any],
    shard_bytes: int,
) -> Manifest:
    samples: list[Sample] = []
    shards: list[Shard] = []
    pending: dict[str, Tensor] = {}
    size = 0
    for index, kv in enumerate(kvs):
        digest = None if texts is None else _text_digest(texts[index])
        samples.append(
            Sample(shard=len(shards), tokens=kv.num_tokens, text_sha256=digest)
        )
        for name, tensor in (("k", kv.k), ("v", kv.v), ("mask", kv.mask)):
            # A copy: safetensors refuses tensors that share memory.
            pending[f"{index}.{name}"] = tensor.detach().cpu().contiguous().clone()
            size += tensor.nbytes
        if size >= shard_bytes:
            shards.append(_write_shard(folder, len(shards), pending))
            pending, size = {}, 0
    if pending:
        shards.append(_write_shard(folder, len(shards), pending))
    manifest = Manifest(shards=shards, samples=samples, provenance=provenance)
    text = manifest.model_dump_json(indent=2) + "\n"
    with (folder / MANIFEST).open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    return manifest


def _write_shard(folder: Path, number: int, tensors: dict[str, Tensor]) -> Shard:
    from safetensors.torch import save

    file = folder / f"kv-{number:05d}.safetensors"
    data = save(tensors)
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return Shard(
        file=file.name, size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not (path / MANIFEST).is_file():
        raise FileExistsError(f"{path} exists and is no KV store; give another path")
    if not overwrite:
        raise FileExistsError(
            f"{path} already holds KV; give another path or overwrite=True"
        )


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} is no finished KV store: it has no {MANIFEST}; extract again"
        )
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{file} is no KV manifest: {error}") from error
    if (manifest.format, manifest.version) != ("mtkd-kv", 1):
        raise ValueError(
            f"{file} has format {manifest.format} {manifest.version}; this version "
            "reads mtkd-kv 1"
        )
    return manifest


def _verify(file: Path, shard: Shard) -> None:
    if not file.is_file():
        raise ValueError(
            f"{file} is missing, though the manifest lists it; extract again"
        )
    if file.stat().st_size != shard.size:
        raise ValueError(
            f"{file} has {file.stat().st_size:,} bytes, the manifest says "
            f"{shard.size:,}; copy it again or extract again"
        )
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != shard.sha256:
        raise ValueError(
            f"{file} does not match its sha256 in the manifest; copy it again or "
            "extract again"
        )


def _pick(stored: Any, layers: Sequence[int]) -> Tensor:
    return torch.stack([stored[layer] for layer in layers])


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
