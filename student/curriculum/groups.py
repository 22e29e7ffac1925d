"""Draw texts from groups by shares that move, each group's texts in turn.

Whoever draws texts one by one by their weights reads some often and others never by
chance alone. Here what every group is owed is summed up over the phase, whole texts are
given out by largest remainders, and within a group all texts are read before one is
read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats: TypeAlias = NDArray[np.float64]
Shares = Callable[[float], Floats]
"""From progress in [0, 1) to what each of K groups is to get, (K,) >= 0, of any sum."""


def seed_of(*parts: object) -> int:
    """A seed that differs wherever one of the parts does."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _permutation(count: int, seed: int) -> NDArray[np.int64]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator).numpy()


def apportioned(owed: Floats, size: int) -> NDArray[np.int64]:
    """Give out whole texts in proportion to what is owed.

    Args:
        owed: (K,); what is below 0 counts as 0, and all alike where nothing is owed.
        size: how many are given out.

    Returns:
        (K,) >= 0, of the sum ``size``.

    Source:
        Largest remainders (Hamilton's method); of equal ones the first group's.
    """
    owed = np.clip(owed, 0, None)
    if not owed.sum() > 0:
        owed = np.ones_like(owed)
    exact = owed * (size / owed.sum())
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = size - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
    return whole


def ranked(
    difficulty: Tensor,
    domains: Sequence[str] | None = None,
) -> Floats:
    """Where each text stands among all, from easy to hard.

    Args:
        difficulty: (N,) float, larger is harder; NaN where nobody knows.
        domains: (N,) names; each text stands among those of its domain then.

    Returns:
        (N,) in (0, 1): (rank + 0.5) / n, of equal ones by their order; 0.5 for what
        nobody knows.
    """
    values = difficulty.double().numpy()
    out = np.full(len(values), 0.5)
    names = np.zeros(len(values)) if domains is None else np.array(domains)
    for name in np.unique(names):
        (here,) = np.nonzero((names == name) & ~np.isnan(values))
        order = here[np.argsort(values[here], kind="stable")]
        out[order] = (np.arange(len(order)) + 0.5) / max(1, len(order))
    return out


class GroupDraws:
    """All draws of one phase from K groups; what it remembers saves work alone."""

    def __init__(
        self,
        groups: Sequence[NDArray[np.int64]],
        shares: Shares,
        *,
        seed: int,
        size: int,
        texts: int,
        since: int = 0,
    ) -> None:
        """Hold the groups.

        Args:
            groups: numbers of texts, each in one group; some may be empty.
            shares: what each group is to get, as the phase goes on.
            seed: see :class:`~student.curriculum.base.Draw`, as all that follow.
            size: see there.
            texts: see there.
            since: see there.
        """
        self._groups, self._shares = groups, shares
        self._seed = seed_of(seed, since)
        self._size, self._texts, self._since = size, texts, since
        self._sizes = np.array([len(group) for group in groups], dtype=np.float64)
        self._owed = np.zeros(len(groups))
        self._given = [np.zeros(len(groups), dtype=np.int64)]
        self._turns: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def at(self, first: int) -> list[int]:
        """The texts of the step before which ``first`` texts of the phase come."""
        step = (first - self._since) // self._size
        while len(self._given) < step + 2:
            self._give()
        before, after = self._given[step], self._given[step + 1]
        drawn: list[int] = []
        for number, group in enumerate(self._groups):
            for count in range(int(before[number]), int(after[number])):
                turn, place = divmod(count, len(group))
                drawn.append(int(group[self._order(number, turn)[place]]))
        mixed = _permutation(len(drawn), seed_of(self._seed, "step", first))
        return [drawn[place] for place in mixed]

    def _order(self, number: int, turn: int) -> NDArray[np.int64]:
        """The permutation of a group for one of its turns."""
        if self._turns.get(number, (-1,))[0] != turn:
            seed = seed_of(self._seed, number, turn)
            order = _permutation(len(self._groups[number]), seed)
            self._turns[number] = (turn, order)
        return self._turns[number][1]

    def _give(self) -> None:
        step = len(self._given) - 1
        progress = (self._since + step * self._size) / self._texts
        wanted = np.where(self._sizes > 0, self._shares(progress), 0.0)
        if not wanted.sum() > 0:
            wanted = self._sizes
        self._owed += wanted * (self._size / wanted.sum())
        given = self._given[-1]
        owed = np.where(self._sizes > 0, self._owed - given, 0.0)
        self._given.append(given + apportioned(owed, self._size))
