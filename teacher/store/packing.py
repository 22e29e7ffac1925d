"""Lay many samples of different lengths into the few tensors of one shard, and back.

Each field of an encoding is one tensor. A sample's rows lie together, layer by layer,
so that one layer of one sample is one stretch of the file. Where it begins follows from
the lengths alone; only losslessly compressed shards carry a table of ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NotRequired, TypedDict

import torch
from torch import Tensor

from align.tokens.named_head import NamedTokens
from teacher.store.encoding import Codec, Field
from teacher.store.manifest import Sample, StoreError
from teacher.store.named import NamedCodec
from teacher.store.tensor_files import header_of

Part = Literal["k", "v"]
PARTS: tuple[Part, Part] = ("k", "v")
NAMED = "o"
"""The part that holds next-token outputs, where a store has any."""

ORIGIN = "origin"
BITS = "bits_per_char"
ENDS = ".ends"


@dataclass(frozen=True, slots=True, eq=False)
class StoredSample:
    """One text's keys and values, unpadded."""

    k: Tensor
    """(L, T, C_k) float."""
    v: Tensor
    """(L, T, C_v) float."""
    origin: Tensor
    """(T,) uint8: 0 where a token has no KV, else 1 + the number of the first teacher
    token that fed it, 255 for all beyond."""
    bits_per_char: float = float("nan")
    """The teacher's own loss on the text; NaN where it has none."""
    _: KW_ONLY
    named: NamedTokens | None = None
    """Next-token outputs of its T tokens; None where the store has none."""


Fields = dict[str, Tensor]


class Codecs(TypedDict):
    """The encoders and decoders of a store, by part."""

    k: Codec
    v: Codec
    o: NotRequired[NamedCodec]


def _layouts(
    codecs: Codecs, layers: int
) -> Iterator[tuple[str, int, Callable[[int], dict[str, Field]]]]:
    """Every part, how many layers it has, and its fields by number of tokens."""
    for part in PARTS:
        yield part, layers, codecs[part].fields
    if "o" in codecs:
        yield NAMED, 1, codecs["o"].fields


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSample:
    """A sample on its way to disk."""

    parts: dict[str, Fields]
    origin: Tensor
    bits_per_char: float


def encode_sample(codecs: Codecs, sample: StoredSample) -> EncodedSample:
    """Encode one sample; see :meth:`Codec.encode`."""
    parts: dict[str, Fields] = {
        "k": codecs["k"].encode(sample.k),
        "v": codecs["v"].encode(sample.v),
    }
    if "o" in codecs:
        assert sample.named is not None
        parts[NAMED] = codecs["o"].encode(sample.named)
    return EncodedSample(parts, sample.origin, sample.bits_per_char)


def pack(
    samples: Sequence[EncodedSample], codecs: Codecs, zstd: int | None
) -> dict[str, list[Tensor]]:
    """Give the pieces of every tensor of a shard.

    Args:
        samples: in order, at least one.
        codecs: they were encoded with.
        zstd: level of lossless compression, or None.
    """
    bits = torch.tensor([sample.bits_per_char for sample in samples])
    out: dict[str, list[Tensor]] = {
        BITS: [bits],
        ORIGIN: [sample.origin for sample in samples],
    }
    for part, _, fields in _layouts(codecs, 1):
        for name in fields(0):
            pieces = [sample.parts[part][name] for sample in samples]
            key = f"{part}.{name}"
            if zstd is None:
                out[key] = [piece.flatten(0, 1) for piece in pieces]
            else:
                out[key], out[key + ENDS] = _compressed(pieces, zstd)
    return out


def shard_bytes(codecs: Codecs, layers: int, lengths: Sequence[int]) -> int:
    """Bytes of a shard's file before lossless compression.

    Args:
        codecs: it is encoded with.
        layers: L.
        lengths: tokens of each sample, at least one.
    """
    entries: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        BITS: (torch.float32, (len(lengths),)),
        ORIGIN: (torch.uint8, (sum(lengths),)),
    }
    for part, count, fields_of in _layouts(codecs, layers):
        fields = [fields_of(length) for length in lengths]
        for name, field in fields[0].items():
            rows = count * sum(sample_fields[name].rows for sample_fields in fields)
            entries[f"{part}.{name}"] = field.dtype, (rows, field.width)
    data = sum(math.prod(shape) * dtype.itemsize for dtype, shape in entries.values())
    return len(header_of(entries)) + data


class ShardReader:
    """Reads samples of one open shard."""

    def __init__(
        self,
        opened: Any,
        samples: Sequence[Sample],
        codecs: Codecs,
        layers: int,
        zstd: bool,
    ) -> None:
        """Hold an open safetensors file and compute where its samples begin."""
        self._opened, self._samples = opened, samples
        self._codecs, self._zstd = codecs, zstd
        self._layers = {part: count for part, count, _ in _layouts(codecs, layers)}
        # Mapped, not loaded: slices of them are views of the file.
        self._tensors: dict[str, Tensor] = {}
        self._ends: dict[str, Tensor] = {}
        self._starts = self._count()

    def read(
        self,
        place: int,
        layers: Sequence[int] | None,
        parts: Sequence[Part] = PARTS,
        named: bool = False,
    ) -> StoredSample:
        """Read one sample.

        Args:
            place: of the sample in this shard.
            layers: stored layers in the order wanted; None means all.
            parts: others come back empty.
            named: whether next-token outputs come, too.
        """
        layer_numbers = range(self._layers["k"]) if layers is None else layers
        parts_read = {
            part: self._part(part, place, layer_numbers, layers is None)
            if part in parts
            else torch.empty(0)
            for part in PARTS
        }
        first = self._starts[ORIGIN][place]
        last = first + self._samples[place].tokens
        return StoredSample(
            parts_read["k"],
            parts_read["v"],
            self._tensor(ORIGIN)[first:last],
            float(self._tensor(BITS)[place]),
            named=self._codecs["o"].decode(self.named(place)) if named else None,
        )

    def named(self, place: int) -> Fields:
        """A sample's next-token outputs as they are encoded."""
        fields = self._codecs["o"].fields(self._samples[place].tokens)
        return self._fields(NAMED, fields, place, (0,))

    def _fields(
        self, part: str, fields: dict[str, Field], place: int, layers: Sequence[int]
    ) -> Fields:
        read_field = self._read_compressed if self._zstd else self._read_rows
        return {
            name: read_field(part, name, place=place, field=field, layers=layers)
            for name, field in fields.items()
        }

    def _part(
        self, part: Part, place: int, layers: Sequence[int], all_layers: bool
    ) -> Tensor:
        fields = self._codecs[part].fields(self._samples[place].tokens)
        encoded = self._fields(part, fields, place, layers)
        index = None if all_layers else torch.tensor(list(layers))
        return self._codecs[part].decode(encoded, index)

    def _read_rows(
        self, part: str, name: str, *, place: int, field: Field, layers: Sequence[int]
    ) -> Tensor:
        key = f"{part}.{name}"
        start, rows, tensor = self._starts[key][place], field.rows, self._tensor(key)
        if not layers:
            return tensor[:0].view(0, rows, field.width)
        pieces = [
            tensor[start + first * rows : start + last * rows]
            for first, last in _runs(layers)
        ]
        stretch = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return stretch.view(len(layers), rows, field.width)

    def _read_compressed(
        self, part: str, name: str, *, place: int, field: Field, layers: Sequence[int]
    ) -> Tensor:
        key = f"{part}.{name}"
        if key not in self._ends:
            self._ends[key] = torch.cat(
                [torch.zeros(1, dtype=torch.int64), self._tensor(key + ENDS)]
            )
        pieces = []
        for layer in layers:
            frame = place * self._layers[part] + layer
            first, last = self._ends[key][frame : frame + 2].tolist()
            pieces.append(_decompress(self._tensor(key)[first:last], field))
        if not pieces:
            return torch.zeros(0, field.rows, field.width, dtype=field.dtype)
        return torch.stack(pieces)

    def _tensor(self, key: str) -> Tensor:
        if key not in self._tensors:
            self._tensors[key] = self._opened.get_tensor(key)
        return self._tensors[key]

    def _count(self) -> dict[str, list[int]]:
        starts: dict[str, list[int]] = {ORIGIN: []}
        at: dict[str, int] = {ORIGIN: 0}
        for sample in self._samples:
            sizes = {ORIGIN: sample.tokens}
            for part, count, fields in _layouts(self._codecs, self._layers["k"]):
                for name, field in fields(sample.tokens).items():
                    sizes[f"{part}.{name}"] = count * field.rows
            for key, size in sizes.items():
                starts.setdefault(key, []).append(at.get(key, 0))
                at[key] = at.get(key, 0) + size
        return starts


def _runs(layers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """[first, last) stretches of neighbouring layers, in the order given."""
    first = last = layers[0]
    for layer in layers:
        if layer != last:
            yield first, last
            first = layer
        last = layer + 1
    yield first, last


def _compressed(pieces: Sequence[Tensor], level: int) -> tuple[list[Tensor], list[Any]]:
    compressor = _zstandard().ZstdCompressor(level=level)
    frames: list[Tensor] = []
    for piece in pieces:
        for layer in piece:
            data = compressor.compress(_planes(layer)) if layer.numel() else b""
            frames.append(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    ends = torch.tensor([len(frame) for frame in frames], dtype=torch.int64).cumsum(0)
    return frames or [torch.zeros(0, dtype=torch.uint8)], [ends]


def _planes(x: Tensor) -> bytes:
    """All first bytes, then all second ones: the exponents lie together."""
    flat = x.contiguous().view(-1).view(torch.uint8)
    return flat.view(-1, x.element_size()).t().contiguous().numpy().tobytes()


def _decompress(frame: Tensor, field: Field) -> Tensor:
    size = field.rows * field.width
    if not size:
        return torch.zeros(field.rows, field.width, dtype=field.dtype)
    width = field.dtype.itemsize
    data = (
        _zstandard()
        .ZstdDecompressor()
        .decompress(frame.numpy(), max_output_size=size * width)
    )
    planes = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(width, size)
    return planes.t().contiguous().view(field.dtype).view(field.rows, field.width)


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise StoreError(
            "zstd compression needs the package zstandard; install the extra: pip "
            "install 'mtkd[zstd]'"
        ) from None
    return zstandard
