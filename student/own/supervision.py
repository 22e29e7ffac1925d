"""Let every layer predict the next token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.sizes import Sizes
from align.tokens.weights import label_weight
from student.match.layers import LayerChoice, Layers
from student.objective import NORMED, ChosenLayers, HiddenOutput, StepContext
from student.own.labels import label_loss, next_ids, next_weight
from student.places import Places


class DeepSupervision(nn.Module):
    """The next-token loss of layers below the last, nats per token.

    Each layer's normed states go through a square map of their own, which begins as
    the identity, and through the student's head, which learns from all of them.

    Source:
        Lee et al. 2015, Deeply-Supervised Nets (arXiv 1409.5185). Departures: heads
        share the student's vocabulary matrix; the weights of the layers sum to 1.
    """

    alone = True
    compares = False
    needs = frozenset({NORMED})
    reads_head = True
    """Refused before any work where the head is split between processes."""

    def __init__(
        self,
        *,
        layers: Layers = "all",
        layer_weights: Literal["equal", "depth", "exponential", "loss"] = "depth",
    ) -> None:
        """Say which layers.

        Args:
            layers: as of ``match``, but ``gradient:K`` and ``probe:K``; ``all`` are
                those below the last, whose loss ``ce`` is.
            layer_weights: ``equal``; ``depth``, in proportion to the number;
                ``exponential``, each twice as much as the one below; ``loss``, in
                proportion to ``exp(-loss)``, the better more, by each layer's loss in
                the last step that compared it, all alike before: of a step itself no
                pass knows more than its part.

        Raises:
            InputError: layers cannot be meant.
        """
        super().__init__()
        self._choice = LayerChoice(layers)
        self.chosen: ChosenLayers | None = None
        if self._choice.compares:
            raise InputError(
                f"layers is {layers!r}, which goes by what a comparison finds; give "
                "all, first:K, last:K, random:K, rising:STEPS or a list of layer "
                "numbers"
            )
        self._layer_weights = layer_weights
        self.maps: nn.Parameter | None = None
        self.trained: Tensor | None = None
        """(L,) int64, 1 for each layer that a step has trained."""
        self.known: Tensor | None = None
        """(2, L) float64, each layer's loss in the last step that compared it, and what
        the passes of a step that is not over have added up; NaN where there is none."""
        self.known_step: Tensor | None = None
        """() int64, the step that is not over."""

    def meet(self, student: Sizes, teachers: Mapping[str, Sizes]) -> None:
        """Be told how wide the student is; makes the maps.

        Raises:
            InputError: a layer is not there, or there is none below the last.
        """
        self._choice.check(student.layers)
        if student.layers < 2:
            raise InputError("the student has one layer, whose loss is that of ce")
        width = student.hidden_size
        maps = torch.eye(width).expand(student.layers, -1, -1).clone()
        self.maps = nn.Parameter(maps)
        del self.trained
        self.register_buffer("trained", torch.zeros(student.layers, dtype=torch.int64))
        if self._layer_weights == "loss":
            del self.known, self.known_step
            none = torch.full((2, student.layers), torch.nan, dtype=torch.float64)
            self.register_buffer("known", none)
            self.register_buffer("known_step", torch.tensor(-1))

    def forward(self, ctx: StepContext) -> Tensor:
        """See :class:`student.objective.Objective`.

        Raises:
            InputError: the student's logits are no product with a head.
        """
        if not isinstance(ctx.output, HiddenOutput):
            raise InputError(
                "deep_supervision reads the student's head, which is split between "
                "processes or no plain matrix; set train.zero_stage=2 or less, or "
                "leave the term out"
            )
        predicted = next_weight(label_weight(ctx.batch))
        ids = next_ids(ctx.batch.ids)
        weight = ctx.of_texts(predicted) * (1 / ctx.total(0, float(predicted.sum())))
        states, head = ctx.own[NORMED], ctx.output.head
        layers = self._chosen(len(states), ctx)
        self.chosen = None if self._choice.settled else ChosenLayers(layers)
        if self.trained is not None and torch.is_grad_enabled():
            self.trained[layers] = 1
        losses = torch.stack(
            [
                label_loss(HiddenOutput(self._mapped(states, i), head), ids, weight)
                for i in layers
            ]
        )
        return (losses * self._shares(layers, losses, ctx)).sum()

    @property
    def exits(self) -> dict[int, Tensor]:
        """(C, C) by layer below the last: to what the head reads.

        Only of layers that a step has trained: other maps are the identity yet.
        """
        if self.maps is None or self.trained is None:
            return {}
        trained = self.trained[:-1].nonzero()[:, 0].tolist()
        return {layer: self.maps[layer] for layer in trained}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """Take a checkpoint that says of layers only what they learned, too."""
        if self.maps is not None and self.trained is not None:
            may = torch.zeros_like(self.trained)
            may[self._choice.kept(len(may))] = 1
            state_dict.setdefault(f"{prefix}trained", may)
        for name in ("known", "known_step"):
            if (nothing := getattr(self, name)) is not None:
                state_dict.setdefault(f"{prefix}{name}", nothing.clone())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _mapped(self, states: Tensor, layer: int) -> Tensor:
        if self.maps is None:
            return states[layer]
        return states[layer] @ self.maps[layer].to(states.dtype)

    def _chosen(self, every: int, ctx: StepContext) -> list[int]:
        if self._choice.rule == "all":
            return list(range(every - 1))
        return self._choice.chosen(every, ctx)

    def _shares(self, layers: list[int], losses: Tensor, ctx: StepContext) -> Tensor:
        """(L',) summing to 1; the same on all processes."""
        if self._layer_weights == "loss":
            return self._by_loss(layers, losses, ctx)
        numbers = torch.tensor([layer + 1.0 for layer in layers])
        shares = {
            "equal": torch.ones_like(numbers),
            "depth": numbers,
            "exponential": (numbers - numbers[-1]).exp2(),
        }[self._layer_weights]
        return (shares / shares.sum()).to(losses)

    def _by_loss(self, layers: list[int], losses: Tensor, ctx: StepContext) -> Tensor:
        """Shares by the last step's losses, which this pass adds its part to."""
        assert self.known is not None and self.known_step is not None
        if torch.is_grad_enabled():
            if int(self.known_step) != ctx.step:
                over = ~self.known[1].isnan()
                self.known[0] = torch.where(over, self.known[1], self.known[0])
                self.known[1] = torch.nan
                self.known_step.fill_(ctx.step)
            sizes = ctx.over_processes(losses.detach().double().tolist())
            parts = torch.tensor(sizes, dtype=torch.float64).to(self.known)
            self.known[1, layers] = self.known[1, layers].nan_to_num() + parts
        known = self.known[0, layers]
        if bool(known.isnan().all()):
            return torch.full_like(losses, 1 / len(layers))
        return (-known.nan_to_num(float(known.nanmean()))).softmax(0).to(losses)

    def count(self, places: Places) -> list[float]:
        """Tokens that are predicted."""
        return [places.labelled]
