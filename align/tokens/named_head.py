"""What is left of a next-token output where its likeliest tokens alone were kept.

A store and a server give, at every place, some tokens with their log-probabilities and
what all others have together. Laid into one row a place, that travels as hidden states
do, and a head makes logits of it as a matrix does of those. So whoever learns from
next-token outputs learns from these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

NONE = -1
"""In the place of an id: no token is named there."""
LEAST_REST = -30.0
"""Log of the least mass that the tokens which are not named have together: none of
them is impossible."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NamedTokens:
    """Next-token outputs after the T tokens of a text, likeliest tokens alone."""

    ids: Tensor
    """(T, k) int64, likeliest first; ``NONE`` where fewer are named."""
    log_probs: Tensor
    """(T, k) float32, nats, of these."""
    came: Tensor
    """(T,) float32, nats, of the token that came; 0 after the last one."""
    rest: Tensor
    """(T,) float32, log of the mass of all tokens but these and the one that came."""

    @staticmethod
    def of(logits: Tensor, ids: Tensor, k: int) -> NamedTokens:
        """Keep the likeliest.

        Args:
            logits: (T, V) float.
            ids: (T,) int64, the text's own tokens.
            k: how many, at most V.
        """
        log_probs = logits.float().log_softmax(-1)
        top = log_probs.topk(k, -1)
        came = log_probs.new_zeros(len(ids))
        came[:-1] = log_probs[:-1].gather(1, ids[1:, None])[:, 0]
        beside = _beside(top.indices, following(ids))
        mass = top.values.double().exp().sum(1) + beside * came.double().exp()
        rest = (1 - mass).clamp_min(0).log().clamp_min(LEAST_REST).float()
        return NamedTokens(ids=top.indices, log_probs=top.values, came=came, rest=rest)

    def to(self, device: str | torch.device) -> NamedTokens:
        """Move the tensors."""
        return NamedTokens(
            ids=self.ids.to(device),
            log_probs=self.log_probs.to(device),
            came=self.came.to(device),
            rest=self.rest.to(device),
        )

    def rows(self, ids: Tensor) -> Tensor:
        """What a :class:`NamedHead` reads.

        Args:
            ids: (T,) int64, the text's own tokens.

        Returns:
            (T, W) float32: ids, which are exact up to 2^24, log-probabilities, rest.
        """
        return self.rows_before(following(ids))

    def rows_before(self, came: Tensor) -> Tensor:
        """The same, of several texts one after another.

        Args:
            came: (T,) int64, the token after each; ``NONE`` after a text's last one.
        """
        others = torch.where(_beside(self.ids, came), came, NONE)
        parts = self.ids, others[:, None], self.log_probs, self.came[:, None]
        return torch.cat([part.float() for part in (*parts, self.rest[:, None])], 1)


@dataclass(frozen=True, slots=True, eq=False)
class NamedHead:
    """Logits of rows in which tokens are named; see :meth:`NamedTokens.rows`."""

    size: int
    """V, of the vocabulary."""
    top_k: int
    """k, the likeliest tokens that every row names. It names one more, the one that
    came, wherever that is not among these."""

    @property
    def width(self) -> int:
        """W, the numbers of a row."""
        return 2 * (self.top_k + 1) + 1

    def first(self, size: int) -> NamedHead:
        """Of the first tokens, where another head of the vocabulary is smaller."""
        return NamedHead(size, self.top_k)

    def log_probs(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Log-probability of one token a row, without those of all others.

        Args:
            rows: (N, W) float32.
            ids: (N,) int64, in 0..V-1.

        Returns:
            (N,) float32, nats: what :meth:`logits` come to, normalised.
        """
        known, named, log_probs, even = self._parts(rows)
        total = self._total(known, log_probs, even)
        here = named == ids[:, None].to(named.dtype)  # of the vocabulary, hence known
        place = here.byte().argmax(1, keepdim=True)  # no token is named twice
        alone = log_probs.gather(1, place)[:, 0]
        return torch.where(here.gather(1, place)[:, 0], alone, even) - total

    def logits(self, rows: Tensor) -> Tensor:
        """Log-probabilities of every token: what was named, and the rest spread evenly.

        Args:
            rows: (N, W) float32.

        Returns:
            (N, V) float32. Where the named tokens and the rest have a mass of 1 these
            are log-probabilities; else logits.
        """
        known, ids, log_probs, even = self._parts(rows)
        # One column more takes what is not known.
        logits = even[:, None].repeat(1, self.size + 1)
        places = torch.where(known, ids, self.size).long()
        return logits.scatter_(1, places, log_probs)[:, :-1]

    def pool(self, rows: Tensor, group: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Add up the probability of each group of tokens, without a logit of the rest.

        Args:
            rows: (N, W) float.
            group: (V,) int64 in [-1, K); tokens of -1 are in none.
            size: K.

        Returns:
            (N, K), what the logsumexp over each group's :meth:`logits` comes to; and
            (N,), over all of the vocabulary.
        """
        known, ids, log_probs, even = self._parts(rows)
        total = self._total(known, log_probs, even)
        # One group more takes what is in none, and places where no token is named.
        group = torch.where(group < 0, size, group)
        place = torch.where(known, group[ids.clamp(0, self.size - 1).long()], size)
        kinds = rows.new_zeros(size + 1)
        kinds.index_add_(0, group, torch.ones_like(group, dtype=rows.dtype))
        others = kinds.repeat(len(rows), 1)
        others.scatter_add_(1, place, -torch.ones_like(log_probs))
        pooled = others.clamp_min_(0).log_().add_(even[:, None])
        least = torch.finfo(rows.dtype).min
        top = pooled.scatter_reduce(1, place, log_probs, "amax").clamp_min_(least)
        share = (log_probs - top.gather(1, place)).exp_()
        pooled = pooled.sub_(top).exp_().scatter_add_(1, place, share).log_().add_(top)
        return pooled[:, :size], total

    def _total(self, known: Tensor, log_probs: Tensor, even: Tensor) -> Tensor:
        """(N,) logsumexp over the vocabulary, of :meth:`_parts`."""
        others = self.size - known.sum(1)
        rest = torch.where(others > 0, even + others.log(), -torch.inf)
        return log_probs.masked_fill(~known, -torch.inf).logsumexp(1).logaddexp(rest)

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, k + 1) which tokens are named, their ids, as the floats they came in, and
        log-probabilities; and (N,) that of each other one."""
        named, k = self.top_k + 1, self.top_k
        ids, log_probs = rows[:, :named], rows[:, named:-1]
        known = (ids >= 0) & (ids < self.size)
        others = (self.size - known.sum(1)).clamp_min(1)
        even = rows[:, -1].clamp_min(LEAST_REST) - others.log()
        # No token that is not named is likelier than one of the likeliest.
        least = torch.where(known[:, :k], log_probs[:, :k], torch.inf).amin(1)
        return known, ids, log_probs, torch.minimum(even, least)


def following(ids: Tensor) -> Tensor:
    """(T,) int64: the token after each; ``NONE`` after the last."""
    return pad(ids[1:], (0, len(ids) - len(ids[1:])), value=NONE)


def _beside(likeliest: Tensor, came: Tensor) -> Tensor:
    """(T,) bool: whether the token that came is not among the likeliest."""
    return (came >= 0) & ~(likeliest == came[:, None]).any(1)
