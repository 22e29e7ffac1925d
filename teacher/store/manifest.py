"""What a store says about itself: its plan, one record a shard, one manifest.

Every one of these files carries a digest of its own text, so that a flipped bit in
what vouches for the data is found like one in the data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from align.errors import InputError
from align.foreign.inside import check_name, file_inside
from teacher.store.files import write_whole

PLAN = "plan.json"
"""What the store will hold; written first."""

MANIFEST = "manifest.json"
"""Vouches for every file; written last."""

CONSTANTS = "constants.safetensors"
"""What all shards are made with: encoding constants, adapters."""

VERSION = 2
"""Of every file."""

WITH_OUTPUTS = 3
"""Of the plan of a store that holds next-token outputs, too."""

_DIGEST = re.compile(r"[0-9a-f]{64}")

Form = Literal["raw", "aligned", "adapted", "fused"]
EncodingName = Literal["float32", "bfloat16", "float16", "int8", "int4", "lowrank"]


PLUGINS = "plugins"
"""A field of the fingerprint: strangers' code that made a store."""


class StoreError(InputError):
    """A store cannot be used; the text names the file and what to do."""


class Strict(BaseModel):
    """Refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(Strict):
    """A file that is vouched for."""

    file: str
    """Name within the store; see :meth:`path_in`."""
    size: int = Field(ge=0)
    sha256: str

    def path_in(self, store: Path, said_by: str) -> Path:
        """Where the file is.

        Args:
            store: its folder.
            said_by: name of the store's file that holds this record.

        Raises:
            OutsideError: its name leads out of the store.
        """
        return file_inside(store, self.file, store / said_by)


class Shape(Strict):
    """Sizes of the keys and values that come back."""

    layers: int = Field(ge=0)
    """L, the layers that are stored; 0 where outputs alone are."""
    heads: int = Field(ge=1)
    """H, key-value heads."""
    k_width: int = Field(ge=1)
    """H * D_k."""
    v_width: int = Field(ge=1)
    """H * D_v."""


class OutputShape(Strict):
    """Next-token outputs that are stored, likeliest tokens alone."""

    vocabulary: int = Field(ge=1)
    """V, rows of the teacher's head."""
    top_k: int = Field(ge=1)
    """k, tokens that are named at every place."""
    log_probs: Literal["int8", "float16"] = "int8"
    """What their log-probabilities are kept in."""


class Encoding(Strict):
    """How numbers become bytes."""

    name: EncodingName = "bfloat16"
    rank: int | None = Field(default=None, ge=1)
    """Components kept by ``lowrank``, at most the narrower width."""
    zstd: int | None = Field(default=None, ge=1, le=19)
    """Level of lossless compression on top; None for none."""


class Plan(Strict):
    """Everything that decides the bytes of a store."""

    format: Literal["mtkd-kv"] = "mtkd-kv"
    version: Literal[2, 3] = 2
    form: Form
    shape: Shape
    encoding: Encoding
    fingerprint: dict[str, JsonValue]
    """What must be equal for two extractions to be one: models, text, settings."""
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    """What a reader wants to know and no run depends on, such as error reports."""
    samples: int = Field(ge=0)
    """Texts in all."""
    shard_samples: int | None = Field(default=None, ge=1)
    """Texts in every shard but the last; None where shards are cut by size."""
    constants: FileRecord | None = None
    outputs: OutputShape | None = None
    """Next-token outputs beside keys and values, in version 3."""

    @model_validator(mode="after")
    def _outputs_by_version(self) -> Plan:
        if (self.outputs is not None) != (self.version == WITH_OUTPUTS):
            raise ValueError(
                f"outputs belong to version {WITH_OUTPUTS}, and only there"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_it_was(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``outputs`` where there are none, as version 2 is sealed."""
        content: dict[str, Any] = dump(self)
        if self.outputs is None:
            content.pop("outputs", None)
        return content

    @property
    def shards(self) -> int:
        """How many shards there will be.

        Raises:
            ValueError: they are cut by size, so that nobody knows beforehand.
        """
        if self.shard_samples is None:
            raise ValueError("this store's shards are cut by size")
        return -(-self.samples // self.shard_samples)

    def span(self, shard: int) -> range:
        """The texts of a shard, by number."""
        assert self.shard_samples is not None
        first = shard * self.shard_samples
        return range(first, min(first + self.shard_samples, self.samples))


class Sample(Strict):
    """One text's KV."""

    tokens: int = Field(ge=0)
    """T, tokens that are stored."""
    text_sha256: str | None = None
    id: str = ""
    """Where the text is from."""
    skipped: str | None = None
    """Why nothing is stored of it."""


class ShardRecord(Strict):
    """One finished shard."""

    number: int = Field(ge=0)
    first: int = Field(ge=0)
    """Number of its first sample."""
    plan: str
    """Digest of the plan it was made by."""
    data: FileRecord
    samples: list[Sample]

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return sum(sample.tokens for sample in self.samples)


class Manifest(Strict):
    """A whole store."""

    format: Literal["mtkd-kv"] = "mtkd-kv"
    version: Literal[2] = 2
    plan: FileRecord
    records: list[FileRecord]
    """Each shard's record, in order."""
    data: list[FileRecord]
    """Each shard's data, in order."""
    samples: int
    tokens: int


Sealed = TypeVar("Sealed", bound=Strict)
_NO_MODEL = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""What JSON raises that is not of a kind; pydantic's error is a ValueError."""


def seal(value: Strict) -> bytes:
    """JSON with a digest of itself."""
    content = value.model_dump(mode="json")
    content["digest"] = _digest(content)
    return (json.dumps(content, indent=1) + "\n").encode()


def digest_of(value: Strict) -> str:
    """The digest that :func:`seal` writes."""
    return _digest(value.model_dump(mode="json"))


def read_sealed(path: Path, kind: type[Sealed]) -> Sealed:
    """Read what :func:`seal` gave.

    Raises:
        StoreError: not JSON, not of this kind or version, or another digest.
        OutsideError: it names, or is a link to, what lies outside its folder.
    """
    data = file_inside(path.parent, path.name, path).read_bytes()
    try:
        content = json.loads(data)
        digest = content.pop("digest")
        value = kind.model_validate(content)
        sound = digest == _digest(content) and data == seal(value)
    except _NO_MODEL as error:
        raise StoreError(_unreadable(path, data, kind, error)) from None
    if not sound:
        raise StoreError(
            f"{path} does not match its own digest: it was damaged or edited; run "
            "`mtkd store repair` on the store"
        )
    for record in _files(value):
        check_name(record.file, path)
    return value


def write_sealed(path: Path, value: Strict, *, replace: bool = False) -> bool:
    """Write a value as :func:`read_sealed` reads it; see :func:`write_whole`."""
    return write_whole(path, seal(value), replace=replace)


def differences(
    stored: Mapping[str, Any], now: Mapping[str, Any], other: str = "config"
) -> list[str]:
    """Name every field that differs: ``revision: stored 'abc', config 'def'``."""
    rows: list[str] = []
    for key in sorted({*stored, *now}):
        old, new = stored.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            rows += [f"{key}.{row}" for row in differences(old, new, other)]
        elif old != new:
            rows.append(f"{key}: stored {brief(old)}, {other} {brief(new)}")
    return rows


def brief(value: Any) -> str:
    """A value for a message, a digest by its first characters."""
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return f"{value[:8]}…"
    return repr(value)


def _files(value: Strict) -> Iterator[FileRecord]:
    """The files that a value vouches for."""
    for _, part in value:
        for record in part if isinstance(part, list) else [part]:
            if isinstance(record, FileRecord):
                yield record


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _unreadable(path: Path, data: bytes, kind: type[Strict], error: Exception) -> str:
    """Say what a file is instead of what it should be."""
    try:
        version = json.loads(data).get("version", VERSION)
    except (ValueError, AttributeError, RecursionError):
        version = VERSION
    known = (VERSION, WITH_OUTPUTS) if kind is Plan else (VERSION,)
    if version not in known and kind is not ShardRecord:
        reads = " and ".join(map(str, known))
        return (
            f"{path} has version {version} of the store format; this version reads "
            f"{reads}: extract again"
        )
    reason = str(error).replace("\n", "; ")
    return (
        f"{path} is no {kind.__name__.lower()} of a KV store, or is damaged "
        f"({reason}); run `mtkd store repair` on the store, or extract again"
    )
