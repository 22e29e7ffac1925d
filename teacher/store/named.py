"""Turn next-token outputs of which likeliest tokens are kept into few bytes, and back.

Ids lie bit after bit, as many as the vocabulary takes. Log-probabilities are kept as
16-bit floats, or in a byte by how far below the row's likeliest they lie: the root of
that distance has even steps, so that the likelier a token, the finer it is told.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align.tokens.named_head import NONE, NamedTokens
from teacher.store.encoding import Field
from teacher.store.manifest import OutputShape

_STEPS = 255
_TURNED = np.packbits(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1),
    axis=1,
    bitorder="little",
)[:, 0]
"""Bytes with their bits in the other order: a number's lowest bit is written first."""


class NamedCodec:
    """Encodes and decodes the next-token outputs of one store."""

    def __init__(self, shape: OutputShape) -> None:
        """Choose how, by what the store's plan says."""
        self.shape = shape
        # One value more than there are ids stands for none.
        self._bits = shape.vocabulary.bit_length()

    def fields(self, tokens: int) -> dict[str, Field]:
        """What a text of so many tokens becomes, by name."""
        k, small = self.shape.top_k, self.shape.log_probs == "int8"
        return {
            "ids": Field(torch.uint8, tokens, -(-k * self._bits // 8)),
            "log_probs": Field(torch.uint8 if small else torch.float16, tokens, k),
            "row": Field(torch.float16, tokens, 4 if small else 2),
        }

    def encode(self, named: NamedTokens) -> dict[str, Tensor]:
        """Encode one text's.

        Returns:
            By field (1, T, width).
        """
        ids = torch.where(named.ids < 0, self.shape.vocabulary, named.ids).numpy()
        bits = (ids[..., None] >> np.arange(self._bits)) & 1
        flat = bits.astype(np.uint8).reshape(len(ids), self.shape.top_k * self._bits)
        packed = np.packbits(flat, axis=-1)
        log_probs, ends = named.log_probs, [named.came, named.rest]
        if self.shape.log_probs == "int8":
            most = log_probs.amax(1) if len(ids) else named.came
            most = most.half()
            apart = (most.float()[:, None] - log_probs).clamp_min(0)
            apart = torch.where(named.ids < 0, 0.0, apart)
            widest = apart.amax(1).half() if len(ids) else named.came.half()
            share = apart / widest.float().clamp_min(1e-7)[:, None]
            log_probs = (share.clamp(0, 1).sqrt() * _STEPS).round().to(torch.uint8)
            ends = [most, widest, *ends]
        else:
            log_probs = log_probs.half()
        row = torch.stack([end.half() for end in ends], 1)
        fields = {"ids": torch.from_numpy(packed), "log_probs": log_probs, "row": row}
        return {name: field[None] for name, field in fields.items()}

    def decode(self, fields: Mapping[str, Tensor]) -> NamedTokens:
        """Undo :meth:`encode`, up to its error.

        Ids come back exactly. Log-probabilities come back to 2^-11 of themselves; in a
        byte also to ``widest / 255`` nats, ``widest`` being how far the least likely of
        the row lies below the likeliest, and those near the likeliest much closer.

        Args:
            fields: by name (1, T, width).
        """
        ids = torch.from_numpy(self._unpacked(fields["ids"][0].numpy()))
        ids = torch.where(ids >= self.shape.vocabulary, NONE, ids)
        row = fields["row"][0].float()
        log_probs = fields["log_probs"][0].float()
        if self.shape.log_probs == "int8":
            share = (log_probs / _STEPS).square()
            log_probs = row[:, :1] - share * row[:, 1:2]
        came, rest = row[:, -2], row[:, -1]
        return NamedTokens(ids=ids, log_probs=log_probs, came=came, rest=rest)

    def _unpacked(self, packed: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(T, k) numbers of (T, width) bytes. Eight bytes from where a number begins
        hold it: less work than to look at every bit."""
        rows, width = packed.shape
        turned = np.zeros((rows, width + 7), dtype=np.uint8)
        turned[:, :width] = _TURNED[packed]
        words: NDArray[np.uint64] = np.ndarray(
            (rows, width), dtype="<u8", buffer=turned, strides=turned.strides
        )
        first, above = np.divmod(np.arange(self.shape.top_k) * self._bits, 8)
        numbers = words[:, first] >> above.astype(np.uint64)
        return (numbers & np.uint64((1 << self._bits) - 1)).astype(np.int64)

    def nothing(self) -> NamedTokens:
        """Of no tokens."""
        none = torch.zeros(0)
        ids = torch.zeros(0, self.shape.top_k, dtype=torch.int64)
        return NamedTokens(ids=ids, log_probs=ids.float(), came=none, rest=none)
