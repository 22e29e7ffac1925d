"""Turn features of any teacher into few bytes, and back.

Keys are encoded before rotation, where a channel keeps its scale from token to token;
after it the same channel swings with the position. Every channel is centred on the
mean of a calibration sample and has a step of its own in every group of tokens. The
first token, a text's attention sink, is a group by itself: it is often many times
larger than all others and would coarsen the steps of its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from align.errors import InputError
from teacher.store.manifest import Encoding

GROUP = {"int8": 96, "int4": 32, "lowrank": 96}
"""Tokens that share a step, about."""

_PER_OCTAVE = 8
_LOWEST = -20.0
"""A step is 2 ** (code / 8 - 20) for codes 0..255: from 1e-6 to 3,800."""

_STEPS = torch.tensor([2.0 ** (code / _PER_OCTAVE + _LOWEST) for code in range(256)])

_NARROWER = {8: 1, 4: 3}
"""By bits, how many smaller steps are tried, each cutting off more of the extremes."""

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Encodings that are a type and nothing else."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelConstants:
    """What a calibration sample said of one teacher's keys, or values."""

    mean: Tensor
    """(L, C) float32."""
    basis: Tensor | None = None
    """(L, C, rank) float32, orthonormal columns, strongest first; for ``lowrank``."""


@dataclass(frozen=True, slots=True)
class Field:
    """One array that an encoding makes of a sample."""

    dtype: torch.dtype
    rows: int
    """Rows per layer."""
    width: int


class Codec:
    """Encodes and decodes the keys, or the values, of one store."""

    def __init__(
        self, encoding: Encoding, width: int, constants: ChannelConstants | None = None
    ) -> None:
        """Choose an encoding.

        Args:
            encoding: its name and, for ``lowrank``, its rank.
            width: C.
            constants: needed by the integer encodings.

        Raises:
            ValueError: constants are missing or of another size.
        """
        self.name, self.width = encoding.name, width
        self._constants = constants
        if self.name in DTYPES:
            return
        if constants is None or constants.mean.shape[-1] != width:
            raise ValueError(
                f"encoding {self.name} of width {width} needs constants of that width; "
                "measure them on a sample"
            )
        if self.name == "lowrank" and constants.basis is None:
            raise ValueError("encoding lowrank needs a basis; measure it on a sample")

    def fields(self, tokens: int) -> dict[str, Field]:
        """What a sample of so many tokens becomes, by name."""
        if self.name in DTYPES:
            return {"x": Field(DTYPES[self.name], tokens, self.width)}
        width = self._inner_width
        packed = Field(torch.int8, tokens, width)
        if self.name == "int4":
            packed = Field(torch.uint8, tokens, -(-width // 2))
        return {"q": packed, "step": Field(torch.uint8, self._groups(tokens), width)}

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Encode one sample.

        Args:
            x: (L, T, C) float, finite.

        Returns:
            By field (L, rows, width).

        Raises:
            ValueError: a value is too large for the encoding.
        """
        if self.name in DTYPES:
            return {"x": _narrowed(x, DTYPES[self.name])}
        centred = x.float() - self._mean[:, None]
        if self.name == "lowrank":
            centred = centred @ self._basis
        bits = 4 if self.name == "int4" else 8
        group = _group_of(x.shape[1], GROUP[self.name])
        codes = _codes(centred, GROUP[self.name], bits)
        levels = 1 << (bits - 1)
        q = _levels(centred, _step(codes)[:, group], levels).to(torch.int8)
        return {"q": _pack(q) if bits == 4 else q, "step": codes}

    def decode(self, fields: Mapping[str, Tensor], layers: Tensor | None) -> Tensor:
        """Undo :meth:`encode`, up to its error.

        Args:
            fields: by name, (L', rows, width).
            layers: (L',) int64, which stored layers these are; None means all.

        Returns:
            (L', T, C); float32, or the stored type where nothing was encoded.
        """
        if self.name in DTYPES:
            return fields["x"]
        q, codes = fields["q"], fields["step"]
        if self.name == "int4":
            q = _unpack(q, self._inner_width)
        group = _group_of(q.shape[1], GROUP[self.name])
        x = (q.float() + 0.5) * _step(codes)[:, group]
        mean = self._mean if layers is None else self._mean[layers]
        if self.name == "lowrank":
            basis = self._basis if layers is None else self._basis[layers]
            x = x @ basis.transpose(1, 2)
        return x + mean[:, None]

    @property
    def _inner_width(self) -> int:
        return self._basis.shape[-1] if self.name == "lowrank" else self.width

    @property
    def _mean(self) -> Tensor:
        assert self._constants is not None
        return self._constants.mean

    @property
    def _basis(self) -> Tensor:
        assert self._constants is not None and self._constants.basis is not None
        return self._constants.basis

    def _groups(self, tokens: int) -> int:
        return int(_group_of(tokens, GROUP[self.name])[-1]) + 1 if tokens else 0


class HasFields(Protocol):
    """Says what it makes of a sample."""

    def fields(self, tokens: int) -> dict[str, Field]:
        """See :meth:`Codec.fields`."""


def bytes_per_sample(codec: HasFields, layers: int, tokens: int) -> int:
    """Bytes of one sample's keys, or values, before lossless compression."""
    return sum(
        layers * field.rows * field.width * field.dtype.itemsize
        for field in codec.fields(tokens).values()
    )


def measure_constants(x: Tensor, rank: int | None = None) -> ChannelConstants:
    """Learn an encoding's constants from a sample.

    Args:
        x: (L, N, C) float, features of N tokens, sinks left out.
        rank: components to keep; None for encodings without a basis.

    Raises:
        ValueError: the rank is wider than the features.

    Source:
        Principal components (Pearson, 1901) of the centred features; the components
        that vary most lose least when the others are dropped (Eckart-Young, 1936).
    """
    mean = x.double().mean(1)
    if rank is None:
        return ChannelConstants(mean.float())
    if rank > x.shape[-1]:
        raise InputError(f"rank {rank} for features of width {x.shape[-1]}; give less")
    centred = x.double() - mean[:, None]
    _, vectors = torch.linalg.eigh(centred.transpose(1, 2) @ centred)
    basis = vectors.flip(-1)[..., :rank]
    largest = basis.abs().argmax(1, keepdim=True)
    basis = basis * basis.gather(1, largest).sign()  # eigenvectors have no sign
    return ChannelConstants(mean.float(), basis.float().contiguous())


def _narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    out = x.to(dtype)
    if not bool(torch.isfinite(out.sum())) and not bool(torch.isfinite(out).all()):
        raise InputError(
            f"a value of {float(x.abs().max()):.3g} does not fit into "
            f"{str(dtype).removeprefix('torch.')}; choose encoding bfloat16"
        )
    return out


def _group_length(tokens: int, size: int) -> int:
    """Tokens of every group but the first (one token) and the last (what is left)."""
    rest = tokens - 1
    return max(1, -(-rest // max(1, round(rest / size))))


def _group_of(tokens: int, size: int) -> Tensor:
    """(T,) int64: the group of every token, the first alone, the others even."""
    if not tokens:
        return torch.zeros(0, dtype=torch.int64)
    groups = 1 + torch.arange(tokens - 1) // _group_length(tokens, size)
    return torch.cat([torch.zeros(1, dtype=torch.int64), groups])


def _codes(x: Tensor, size: int, bits: int) -> Tensor:
    """(L, G, C) uint8: the step of every channel in every group of tokens."""
    tokens = x.shape[1]
    if tokens < 2:
        return _best_codes(x[:, :, None], bits)
    length = _group_length(tokens, size)
    rest = x[:, 1:]
    padding = -rest.shape[1] % length
    if padding:  # the last token again: it changes no extreme
        rest = torch.cat([rest, rest[:, -1:].expand(-1, padding, -1)], 1)
    rest = rest.unflatten(1, (rest.shape[1] // length, length))
    return torch.cat([_best_codes(x[:, :1, None], bits), _best_codes(rest, bits)], 1)


def _best_codes(x: Tensor, bits: int) -> Tensor:
    """(L, G, T, C) -> (L, G, C): of several steps the one of least residual."""
    levels = 1 << (bits - 1)
    largest = x.abs().amax(2)
    octaves = (largest / levels).clamp_min(2.0**_LOWEST).log2() - _LOWEST
    widest = (octaves * _PER_OCTAVE).ceil()
    if bool((widest > 255).any()):
        raise InputError(
            f"a value of {float(largest.max()):.3g} lies outside what int{bits} "
            "holds; choose encoding bfloat16"
        )
    # The widest step holds the extremes. A narrower one cuts them off and rounds all
    # others finer, which pays where few values are large (clipping; Banner et al. 2019,
    # arXiv 1810.05723): the squared error decides, group by group.
    candidates = [(widest - less).clamp_min(0) for less in range(_NARROWER[bits] + 1)]
    errors = []
    for codes in candidates:
        step = _step(codes)[:, :, None]
        decoded = (_levels(x, step, levels) + 0.5).mul_(step)
        errors.append(decoded.sub_(x).square_().sum(2))
    best = torch.stack(errors).argmin(0, keepdim=True)
    return torch.stack(candidates).gather(0, best)[0].to(torch.uint8)


def _step(codes: Tensor) -> Tensor:
    # A table: vectorised exp2 rounds otherwise than the scalar one at an array's end.
    return _STEPS[codes.long()]


def _levels(x: Tensor, step: Tensor, levels: int) -> Tensor:
    """The level below each value; a level stands for the value half a step above it.

    Without a level at zero all 2^bits levels are used, half of them on either side.
    """
    return (x / step).floor_().clamp_(-levels, levels - 1)


def _pack(q: Tensor) -> Tensor:
    """Two levels -8..7 a byte, neighbours in width; an odd width ends in zero."""
    shifted = (q + 8).to(torch.uint8)
    if shifted.shape[-1] % 2:
        shifted = torch.nn.functional.pad(shifted, (0, 1))
    return shifted[..., 0::2] | (shifted[..., 1::2] << 4)


def _unpack(packed: Tensor, width: int) -> Tensor:
    pairs = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
    return pairs[..., :width].to(torch.int8) - 8
