"""Which tokens of a vocabulary begin with some bytes, and what they weigh together."""

from __future__ import annotations

from bisect import bisect_left

import torch
from torch import Tensor

from align.errors import InputError
from align.tokens.spelling import Pieces

BYTES = 256


class BytePrefixes:
    """A vocabulary sorted by what its tokens spell.

    Tokens that begin alike are neighbours, so that the weight of all that begin with
    some bytes is a difference of two cumulative sums: a trie without its nodes.
    """

    def __init__(self, spelled: Pieces) -> None:
        """Sort.

        Args:
            spelled: by id the bytes of each token; None for one that spells none, which
                never begins with anything.

        Raises:
            InputError: no token spells anything.
        """
        pairs = sorted((text, id_) for id_, text in enumerate(spelled) if text)
        if not pairs:
            raise InputError("no token of the vocabulary spells any text")
        self._texts = [text for text, _ in pairs]
        self._ids = torch.tensor([id_ for _, id_ in pairs])
        self._places: dict[bytes, Tensor] = {}

    @property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self._texts))

    def after(self, weights: Tensor, start: bytes) -> Tensor:
        """What the tokens weigh that begin with some bytes, by the byte that follows.

        Args:
            weights: (..., V) float, by id.
            start: bytes, maybe none.

        Returns:
            (..., 256) float64: sums over tokens that spell ``start``, then that byte,
            then anything.
        """
        ordered = weights[..., self._ids.to(weights.device)].double()
        sums = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))
        at = self._bounds(start).to(weights.device)
        return sums[..., at[1:]] - sums[..., at[:-1]]

    def _bounds(self, start: bytes) -> Tensor:
        """(257,) places: those of ``start`` and byte b are from place b to b + 1."""
        if start not in self._places:
            firsts = (start + bytes([byte]) for byte in range(BYTES))
            places = [bisect_left(self._texts, first) for first in firsts]
            self._places[start] = torch.tensor([*places, self._end(start)])
        return self._places[start]

    def _end(self, start: bytes) -> int:
        """The first place behind all that begin with ``start``."""
        kept = start.rstrip(b"\xff")
        if not kept:  # nothing is greater than bytes of all ones
            return len(self._texts)
        behind = kept[:-1] + bytes([kept[-1] + 1])
        return bisect_left(self._texts, behind)
