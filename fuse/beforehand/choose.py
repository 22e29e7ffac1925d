"""From weights known beforehand to the teachers that are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from align.errors import InputError
from align.text.documents import TextSample
from fuse.beforehand.texts import BeforeReading, Texts
from fuse.config import SAMPLED, SOFT, TOP_K


class TextChoice:
    """Chooses teachers text by text; a pure function of text and number.

    So every process, arm and resumed run chooses alike, however texts are gathered
    into passes.
    """

    def __init__(
        self,
        router: BeforeReading,
        choice: str,
        teachers: Sequence[str],
        *,
        seed: int,
        k: int = 1,
        rank: Callable[[TextSample], float] | None = None,
        costs: Tensor | None = None,
        texts: Sequence[TextSample] = (),
    ) -> None:
        """Take a router that decides before reading.

        Args:
            router: see :class:`fuse.beforehand.texts.BeforeReading`.
            choice: ``hard``, ``sampled`` or ``top_k``; or ``soft``, whoever has any
                weight.
            teachers: M names.
            seed: of the run, for what is drawn.
            k: teachers of a text, 1 <= k <= M, for ``top_k``.
            rank: how hard a text is, in [0, 1]; for a router that goes by that.
            costs: (M,), see :class:`fuse.beforehand.texts.Texts`.
            texts: all that are learned from.

        Raises:
            InputError: ``k`` is no number of teachers.
        """
        if choice == TOP_K and not 1 <= k <= len(teachers):
            raise InputError(
                f"fuse.choice: {{use: top_k, k: {k}}} takes {k} of the {len(teachers)} "
                f"teachers {', '.join(teachers)}; give 1 <= k <= {len(teachers)}"
            )
        self.teachers = tuple(teachers)
        self._router, self._choice, self._seed, self._k = router, choice, seed, k
        self._rank, self._costs = rank, costs
        self._ranks: dict[bytes, float] = {}
        asked = [True] * len(teachers)
        self.spares = False
        """Whether a teacher rests on any of ``texts``, or may where one is drawn."""
        if texts:
            chance = self._chance(texts)
            asked, self.spares = chance.any(0).tolist(), not bool(chance.all())
        self.never = tuple(n for n, a in zip(teachers, asked, strict=True) if not a)
        """Teachers that no text is for, as far as that is known."""

    @property
    def apart(self) -> tuple[str, ...]:
        """Those of ``never`` by whose tokens nothing is calibrated; none under
        ``soft``, where a phase is as if all had read."""
        return () if self._choice == SOFT else self.never

    def __call__(self, samples: Sequence[TextSample], numbers: Sequence[int]) -> Tensor:
        """Choose.

        Args:
            samples: B texts.
            numbers: their numbers in the run.

        Returns:
            (B, M) bool on the CPU, which teachers are asked about which text; at least
            one each.
        """
        weights = self._weights(samples)
        if self._choice == SAMPLED:
            return drawn(weights, text_draws(self._seed, numbers)[:, 0])
        return self._for_certain(weights)

    def _for_certain(self, weights: Tensor) -> Tensor:
        """(B, M) bool, of a choice that is not drawn."""
        if self._choice == SOFT:
            return weights > 0
        return greatest(weights, self._k if self._choice == TOP_K else 1)

    def _weights(self, samples: Sequence[TextSample]) -> Tensor:
        texts = Texts(
            teachers=self.teachers,
            domains=[sample.domain for sample in samples],
            ranks=self._ranked(samples),
            costs=self._costs,
        )
        return self._router.beforehand(texts).cpu()

    def _chance(self, texts: Sequence[TextSample]) -> Tensor:
        """(B, M) bool, who may be asked about which of some texts."""
        weights = self._weights(texts)
        return weights > 0 if self._choice == SAMPLED else self._for_certain(weights)

    def _ranked(self, samples: Sequence[TextSample]) -> Tensor | None:
        rank = self._rank
        if rank is None:
            return None
        ranks = []
        for sample in samples:  # of texts that come again it is known; not the text,
            text = blake2b(sample.text.encode(), digest_size=16).digest()  # it is long
            if text not in self._ranks:
                self._ranks[text] = rank(sample)
            ranks.append(self._ranks[text])
        return torch.tensor(ranks, dtype=torch.float64)


def greatest(weights: Tensor, k: int) -> Tensor:
    """The ``k`` greatest of each row, as far as they are > 0; of equal ones the first.

    Args:
        weights: (..., M) float >= 0.
        k: >= 1.

    Returns:
        (..., M) bool.
    """
    order = weights.argsort(dim=-1, descending=True, stable=True)[..., :k]
    chosen = torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, True)
    return chosen & (weights > 0)


def drawn(weights: Tensor, draws: Sequence[float] | Tensor) -> Tensor:
    """One of each row, with the probability that its weight is.

    Args:
        weights: (..., M) float >= 0, of any scale; of a row of 0 none is drawn.
        draws: (...) numbers in [0, 1).

    Returns:
        (..., M) bool.
    """
    upto = weights.double().cumsum(-1)
    at = torch.as_tensor(draws, dtype=torch.float64, device=upto.device)[..., None]
    index = (upto <= at * upto[..., -1:]).sum(-1, keepdim=True)  # never one of 0
    index = index.clamp_max(weights.shape[-1] - 1)
    chosen = torch.zeros_like(weights, dtype=torch.bool).scatter(-1, index, True)
    return chosen & (weights > 0)


def text_draws(seed: int, numbers: Sequence[int], tokens: int = 1) -> Tensor:
    """What is drawn for the tokens of texts, by their numbers in the run.

    So every process, arm and resumed run draws alike, however texts are gathered into
    passes. The first is also what is drawn for the text as a whole.

    Args:
        seed: of the run.
        numbers: B of them.
        tokens: T, >= 1.

    Returns:
        (B, T) float64 in [0, 1) on the CPU.
    """
    chance = torch.Generator()
    return torch.stack(
        [
            torch.rand(
                tokens,
                dtype=torch.float64,
                generator=chance.manual_seed(seed * 999_983 + number),
            )
            for number in numbers
        ]
    )


def ranks_among(scores: Sequence[float]) -> Callable[[float], float]:
    """How hard a score is among all: the share of those below it, ties half.

    Args:
        scores: of all texts that are learned from, N >= 1 finite numbers; greater is
            harder.
    """
    ordered = torch.tensor(sorted(scores), dtype=torch.float64)

    def rank(score: float) -> float:
        value = torch.tensor(score, dtype=torch.float64)
        below = int(torch.searchsorted(ordered, value))
        upto = int(torch.searchsorted(ordered, value, right=True))
        return (below + upto) / 2 / len(ordered)

    return rank
