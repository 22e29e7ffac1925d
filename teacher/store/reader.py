"""Read single samples, and single layers of them, from a whole store."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from align.errors import MissingFileError
from align.foreign.inside import refuse_links_out
from align.kv import KV
from align.text.conversation import Conversation
from align.tokens.named_head import NamedTokens
from teacher.store.manifest import (
    MANIFEST,
    PLAN,
    Manifest,
    Plan,
    Sample,
    ShardRecord,
    StoreError,
    digest_of,
    read_sealed,
)
from teacher.store.packing import PARTS, Part, ShardReader, StoredSample
from teacher.store.records import (
    check_file,
    codecs_of,
    read_constants,
    read_record,
    record_name,
)

OPEN_SHARDS = 64
"""Shards kept open at once; each is mapped, not loaded."""


class KVStore:
    """One teacher's stored keys and values.

    Args:
        path: folder that :func:`save_kvs` or ``mtkd extract`` wrote.
        verify: compare each shard with its digest before its first use.

    Raises:
        FileNotFoundError: no store there, or one that was never finished.
        StoreError: the manifest or what it vouches for is damaged.
        OutsideError: a name or a link in it leads out of the folder.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        """Read what the store says of itself; shards are opened when asked for."""
        self.path = Path(path)
        refuse_links_out(self.path)
        self.manifest = read_manifest(self.path)
        check_file(self.path, self.manifest.plan, MANIFEST)
        self.plan = read_sealed(self.path / PLAN, Plan)
        self._codecs = codecs_of(self.plan, read_constants(self.path, self.plan))
        self._records = self._read_records()
        self._places = [
            (number, place)
            for number, record in enumerate(self._records)
            for place in range(len(record.samples))
        ]
        self._unverified = set(range(len(self._records))) if verify else set()
        self._open: OrderedDict[int, tuple[Any, ShardReader]] = OrderedDict()

    def __len__(self) -> int:
        """Samples, skipped ones included."""
        return len(self._places)

    def __getitem__(self, index: int) -> KV:
        """All layers of one sample."""
        return self.read(index)

    @property
    def samples(self) -> list[Sample]:
        """What is known of every sample."""
        return [sample for record in self._records for sample in record.samples]

    def read(self, index: int, layers: Sequence[int] | None = None) -> KV:
        """Read one sample, on the CPU; see :meth:`read_sample`.

        Returns:
            (L', 1, H, T, D) in the stored type, float32 where it was encoded; the
            mask is True on tokens that have KV.
        """
        sample = self.read_sample(index, layers)
        return KV.from_flat(
            sample.k[:, None],
            sample.v[:, None],
            sample.origin[None] > 0,
            self.plan.shape.heads,
        )

    def read_sample(
        self,
        index: int,
        layers: Sequence[int] | None = None,
        parts: Sequence[Part] = PARTS,
        named: bool = False,
    ) -> StoredSample:
        """Read one sample as it is stored.

        Args:
            index: of the sample, in the order of saving.
            layers: stored layers to read, in this order; None means all.
            parts: ``k``, ``v`` or both; what is not asked for comes back empty.
            named: whether next-token outputs come, of a store that has them.

        Raises:
            IndexError: no such sample or layer.
            StoreError: its shard is damaged.
        """
        reader, place = self._reader_of(index)
        count = self.plan.shape.layers
        if layers is not None and not all(0 <= layer < count for layer in layers):
            raise IndexError(
                f"{self.path} holds layers 0..{count - 1}, not {list(layers)}"
            )
        return reader.read(place, layers, parts, named)

    def _reader_of(self, index: int) -> tuple[ShardReader, int]:
        """The shard of a sample, and its place there."""
        if not 0 <= index < len(self):
            raise IndexError(
                f"{self.path} holds samples 0..{len(self) - 1}, not {index}"
            )
        number, place = self._places[index]
        return self._shard(number), place

    def read_named(self, indices: Sequence[int]) -> NamedTokens:
        """Next-token outputs of one or more samples, one after another.

        All are decoded at once: several times as fast as one by one.

        Raises:
            IndexError: no such sample.
            StoreError: a shard is damaged.
        """
        encoded = [self._reader_of(index) for index in indices]
        each = [reader.named(place) for reader, place in encoded]
        whole = {name: torch.cat([e[name] for e in each], 1) for name in each[0]}
        return self._codecs["o"].decode(whole)

    def find(self, text: str) -> int | None:
        """The index of a text's KV; None where it was not extracted."""
        return self._by_digest.get(text_digest(text))

    @cached_property
    def _by_digest(self) -> dict[str, int]:
        return {
            sample.text_sha256: index
            for index, sample in reversed(list(enumerate(self.samples)))
            if sample.text_sha256 is not None
        }

    def _shard(self, number: int) -> ShardReader:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number][1]
        from safetensors import SafetensorError, safe_open

        record = self._records[number]
        file = record.data.path_in(self.path, record_name(number))
        if number in self._unverified:
            check_file(self.path, record.data, record_name(number))
        try:
            opened = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise StoreError(
                f"{file} cannot be read: {error}; run `mtkd store repair` on the store"
            ) from error
        self._unverified.discard(number)
        encoding, layers = self.plan.encoding, self.plan.shape.layers
        reader = ShardReader(
            opened, record.samples, self._codecs, layers, encoding.zstd is not None
        )
        self._open[number] = opened, reader
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return reader

    def _read_records(self) -> list[ShardRecord]:
        plan = digest_of(self.plan)
        records = []
        for number, vouched in enumerate(self.manifest.records):
            check_file(self.path, vouched, MANIFEST)
            record = read_record(self.path, number, plan)
            if record is None or record.data != self.manifest.data[number]:
                raise StoreError(
                    f"{self.path / record_name(number)} and {MANIFEST} disagree about "
                    f"shard {number}; run `mtkd store repair` on the store"
                )
            records.append(record)
        return records


def read_manifest(path: Path) -> Manifest:
    """Read a finished store's manifest.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it is damaged or of another version.
    """
    file = path / MANIFEST
    if file.is_file():
        return read_sealed(file, Manifest)
    if (path / PLAN).is_file():
        raise MissingFileError(
            f"{path} is no finished KV store: it has a plan, but no {MANIFEST}; run "
            "the same `mtkd extract` again, which makes what is missing"
        )
    inside = sorted(p.parent.name for p in path.glob(f"*/{PLAN}"))
    if inside:
        raise MissingFileError(
            f"{path} holds several stores ({', '.join(inside)}); give one of them"
        )
    raise MissingFileError(
        f"{path} is no finished KV store: it has no {MANIFEST}; extract again"
    )


def text_bytes(text: str) -> bytes:
    """What a teacher reads of a text: its characters, or a conversation's turns."""
    content: str = text
    if isinstance(text, Conversation):  # the same contents may be other people's turns
        content = json.dumps([text.messages, text.joint], sort_keys=True, default=str)
    return content.encode("utf-8", "surrogatepass")


def text_digest(text: str) -> str:
    """SHA-256 of a text, by which its KV are found."""
    return hashlib.sha256(text_bytes(text)).hexdigest()


def all_origins(tokens: int) -> torch.Tensor:
    """(T,) uint8 for KV at the teacher's own tokens; see :class:`StoredSample`."""
    return (torch.arange(tokens) + 1).clamp_max(255).to(torch.uint8)
