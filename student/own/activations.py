"""Keep the student's own hidden states small, sparse, slow or unlike each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from align.errors import InputError
from align.products.autocast import without_autocast
from align.sizes import Sizes
from align.support.field_types import Count as Number
from align.tokens.batch import TokenBatch
from align.tokens.weights import text_weight
from student.match.layers import LayerChoice, Layers, layer_shares
from student.objective import (
    HIDDEN,
    NORMED,
    RESIDUAL,
    ChosenLayers,
    Count,
    StepContext,
)
from student.places import Places

Penalty = Literal["l1", "l2", "slow", "correlation"]
OwnState = Literal["given", "residual", "normed"]
STATE_OF: Mapping[OwnState, str] = {
    "given": HIDDEN,
    "residual": RESIDUAL,
    "normed": NORMED,
}
_LEAST_SPREAD = 1e-10
"""Of the mean square: a channel below it stands still, and rounding is what moves."""


class Activations:
    """A penalty on hidden states, a mean over text tokens and layers; tokens of all but
    ``correlation`` count as their text does.

    - ``l1``: mean over channels of the absolute value, which leaves few of them on;
    - ``l2``: mean over channels of the square;
    - ``slow``: mean over channels of the squared change from the token before;
    - ``correlation``: mean over pairs of different channels of their squared
      correlation over the pass's tokens, 0 where each says something of its own.

    What stands before a norm can be made small without a word changing, so ``l1`` and
    ``l2`` say something of ``normed`` states alone, whose norm's scale then shrinks.

    Source:
        Merity, McCann and Socher 2017, Revisiting Activation Regularization for
        Language RNNs (arXiv 1708.02182), for ``l2`` and ``slow``; Cogswell et al. 2016,
        Reducing Overfitting by Decorrelating Representations (arXiv 1511.06068), eq. 1,
        for ``correlation``. Departures: of every layer that is named, not of the last;
        means in place of norms; correlations in place of covariances, which would be
        made small by shrinking.
    """

    alone = True
    compares = False

    def __init__(
        self,
        *,
        penalty: Penalty = "l2",
        state: OwnState = "normed",
        layers: Layers = "all",
        layer_weights: Literal["equal", "depth"] = "equal",
        skip: Number = 1,
    ) -> None:
        """Say what is penalised.

        Args:
            penalty: see above.
            state: which hidden states, as of ``match``.
            layers: as of ``match``, but ``gradient:K`` and ``probe:K``.
            layer_weights: ``equal``, or ``depth``, in proportion to the number.
            skip: leading tokens of a text that are left out (attention sinks).

        Raises:
            InputError: layers cannot be meant.
        """
        self._choice = LayerChoice(layers)
        self.chosen: ChosenLayers | None = None
        if self._choice.compares:
            raise InputError(
                f"layers is {layers!r}, which goes by what a comparison finds; give "
                "all, first:K, last:K, random:K, rising:STEPS or a list of layer "
                "numbers"
            )
        self.needs = frozenset({STATE_OF[state]})
        self._penalty, self._state = penalty, STATE_OF[state]
        self._layer_weights, self._skip = layer_weights, skip

    @property
    def count(self) -> Count | None:
        """None where the penalty is a statistic of a whole pass."""
        return None if self._penalty == "correlation" else self._count

    def meet(self, student: Sizes, teachers: Mapping[str, Sizes]) -> None:
        """See that the student has the layers.

        Raises:
            InputError: it has not.
        """
        self._choice.check(student.layers)

    def __call__(self, ctx: StepContext) -> Tensor:
        """See :class:`student.objective.Objective`."""
        states, known = ctx.own[self._state], self._known(ctx.batch)
        layers = self._choice.chosen(len(states), ctx)
        self.chosen = None if self._choice.settled else ChosenLayers(layers)
        with without_autocast(states):
            x = states[layers]
            x = x if x.dtype == torch.float64 else x.float()
            shares = layer_shares(self._layer_weights, layers, x)
            if self._penalty == "correlation":
                return (_correlation(x[:, known]) * shares).sum()
            if self._penalty == "slow":
                x = x[:, :, 1:] - x[:, :, :-1]
            apart = x.abs() if self._penalty == "l1" else x.square()
            weight = text_weight(ctx.batch, known).to(x)
            sums = (torch.where(known, apart.mean(-1), 0.0) * weight).sum((1, 2))
            return (sums * shares).sum() / ctx.total(0, float(weight.sum()))

    def _known(self, batch: TokenBatch) -> Tensor:
        """(B, T) bool; of ``slow`` (B, T - 1), tokens with one before them."""
        known = batch.has_text & (batch.mask.cumsum(1) > self._skip)
        return known[:, 1:] & known[:, :-1] if self._penalty == "slow" else known

    def _count(self, places: Places) -> list[float]:
        known = self._known(places.batch)
        return [float(text_weight(places.batch, known).double().sum())]


def _correlation(x: Tensor) -> Tensor:
    """(L, N, C) -> (L,): mean over pairs of channels of the squared correlation."""
    tokens, width = x.shape[1:]
    if tokens < 2 or width < 2:
        return x.sum((1, 2)) * 0
    centred = x - x.mean(1, keepdim=True)
    square = centred.square().sum(1, keepdim=True)
    moves = square > _LEAST_SPREAD * x.square().sum(1, keepdim=True)
    unit = centred / torch.where(moves, square, torch.ones_like(square)).sqrt()
    unit = torch.where(moves, unit, 0.0)
    kernel = unit @ unit.mT if tokens < width else unit.mT @ unit  # the smaller
    itself = moves[:, 0].sum(1)
    return (kernel.square().sum((1, 2)) - itself).clamp_min(0) / (width * (width - 1))
