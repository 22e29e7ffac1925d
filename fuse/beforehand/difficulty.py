"""A router that gives easy texts to small teachers and hard ones to large."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from align.errors import InputError
from fuse.beforehand.texts import Texts


class DifficultyRouter(nn.Module):
    """Bands of difficulty, each with a teacher of its own.

    The teachers stand from the smallest to the largest. A text whose difficulty is
    above a share ``q`` of all texts goes to the teacher whose band holds ``q``.

    Source:
        Seed table 3-79 (small, medium or large teacher by difficulty). Departure: the
        bands' bounds are shares of the texts, not values of a score, so that they mean
        the same whatever difficulty is measured in.
    """

    learns = False
    before_reading = True
    difficulty = "length"

    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        *,
        difficulty: str = "length",
        order: list[str] | None = None,
        bounds: list[float] | None = None,
    ) -> None:
        """Take the bands.

        Args:
            hidden_dim: C, which plays no part.
            num_teachers: M.
            difficulty: what texts are ranked by: ``length``, in characters, or a score
                of the phase's texts.
            order: teachers from the one for the easiest texts to the one for the
                hardest, none twice; None: by their number of parameters. Who is not
                named is not asked; the texts of one that takes no part go to the
                nearest in order.
            bounds: shares of the texts at which the next of ``order`` begins,
                ascending, in (0, 1), one fewer than teachers; None: as many texts for
                each.

        Raises:
            InputError: bounds do not ascend in (0, 1), are not one fewer than the
                teachers, or a teacher is named twice or not at all.
        """
        super().__init__()
        bands = num_teachers if order is None else len(order)
        if order is None and bounds is not None:
            raise InputError(
                f"bounds of router 'difficulty' are {bounds}, and nothing says between "
                "whom; give order, the teacher for the easiest texts first"
            )
        if order is not None and (not order or len(set(order)) < len(order)):
            raise InputError(
                f"order of router 'difficulty' is {order}; name each teacher once, the "
                "one for the easiest texts first"
            )
        if bounds is None:
            bounds = [band / bands for band in range(1, bands)]
        ascending = all(a < b for a, b in pairwise([0, *bounds, 1]))
        if len(bounds) != bands - 1 or not ascending:
            raise InputError(
                f"bounds of router 'difficulty' are {bounds} for {bands} teachers; "
                f"give {bands - 1} shares of the texts, ascending, above 0 and below 1"
            )
        self.num_teachers, self.difficulty = num_teachers, difficulty
        self.order, self.bounds = order, list(bounds)

    def forward(self, query: Tensor) -> Tensor:
        """(..., C) float -> (..., M) float32, all alike: who was not chosen beforehand
        covers nothing of the text, so that the others share the weight."""
        count = self.num_teachers
        weights = torch.full((count,), 1 / count, device=query.device)
        return weights.expand(*query.shape[:-1], -1)

    def beforehand(self, texts: Texts) -> Tensor:
        """(B, M) float32, one-hot.

        Raises:
            InputError: no teacher of ``order`` is there, or nobody knows how large one
                is.
        """
        assert texts.ranks is not None, "texts are ranked for who asks for difficulty"
        order = torch.tensor(self._order(texts))
        band = torch.bucketize(
            texts.ranks, torch.tensor(self.bounds, dtype=torch.float64), right=True
        )
        weights = torch.zeros(len(band), self.num_teachers)
        return weights.scatter(1, order[band][:, None], 1.0)

    def _order(self, texts: Texts) -> list[int]:
        """Of each band the teacher."""
        names = list(texts.teachers)
        if self.order is not None:
            present = [band for band, name in enumerate(self.order) if name in names]
            if not present:
                raise InputError(
                    f"order of router 'difficulty' names {', '.join(self.order)}, and "
                    f"the phase's teachers are {', '.join(names)}; name one of them"
                )
            nearest = [
                min(present, key=lambda other: abs(other - band))
                for band in range(len(self.order))
            ]
            return [names.index(self.order[band]) for band in nearest]
        assert texts.costs is not None
        unknown = [names[m] for m in texts.costs.isnan().nonzero()[:, 0].tolist()]
        if unknown:
            raise InputError(
                "router 'difficulty' orders teachers by their parameters, and nothing "
                f"says how many {', '.join(unknown)} has; give fuse.fusion_method."
                "order: [the one for the easiest texts, …, the one for the hardest]"
            )
        order: list[int] = texts.costs.argsort(stable=True).tolist()
        return order
