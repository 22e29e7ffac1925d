"""Weights rounded while the student trains: quantisation-aware training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from align.errors import InputError
from align.support.field_types import Count
from align.tokens.batch import TokenBatch
from student.transforms.base import Targets, WeightTransform
from student.transforms.bias import attach_shifts, correct
from student.transforms.scales import fit_scales

_TINY = 1e-12
"""Least scale: a row of zeros stays one."""
_END = 1e-6
"""By what share of itself an end of the range is moved out, so that it is inside."""
_CLIPS = 16
"""Ranges that are tried for a learned scale, of 1/2 to all of the largest weight."""


class FakeQuant(WeightTransform):
    """Each row, or group of inputs in a row, on a grid of ``2 ** bits`` values.

    Source:
        Symmetric grids ``s * clamp(round(w / s), -2^(b-1), 2^(b-1) - 1)`` with the
        gradient of the identity inside the range and none outside (Jacob et al. 2018,
        arXiv 1712.05877): the numbers of ``torch.fake_quantize_per_channel_affine``,
        computed in fewer passes. Learned scales are LSQ's (Esser et al. 2020, arXiv
        1902.08153) with its factor
        ``1 / sqrt(N * (2^(b-1) - 1))``. Departures: what is learned is the logarithm of
        the scale, so that a step of Adam moves every scale by a share of itself and
        none below 0; and it begins where the squared error is least, not at
        ``2 mean|w| / sqrt(2^(b-1) - 1)``, which at 8 bits leaves most of the grid
        empty.
    """

    keeps_zeros = True  # a symmetric grid holds 0

    def __init__(
        self,
        *,
        bits: Annotated[int, Interval(ge=2, le=8)] = 4,
        group: Count = 0,
        scales: Literal["max", "learned"] = "max",
        correct_bias: bool = False,
        correct_scales: bool = False,
        targets: Targets = "auto",
    ) -> None:
        """Take the grid.

        Args:
            bits: of a weight, 2 to 8.
            group: inputs that share a scale; 0: all of an output channel.
            scales: ``max``, the largest weight as it stands at each step; or
                ``learned`` beside the weights, at the student's rate.
            correct_bias: after the last step, take the mean error of each layer's
                output on a sample from its bias; layers without one stay.
            correct_scales: after the last step, multiply the scales of each output by
                the factor with which it is nearest to the unrounded one on a sample.
            targets: layers by the ends of their names; ``auto``: every linear layer but
                the head.

        Raises:
            InputError: scales are learned, and are to be corrected.
        """
        super().__init__(targets)
        if correct_scales and scales == "learned":
            raise InputError(
                "correct_scales is true, and scales is learned: they were trained for "
                "the loss, and would be fitted to the unrounded weights; set "
                "scales=max or correct_scales=false"
            )
        self.bits, self.group, self.scales = bits, group, scales
        self.correct_bias, self.correct_scales = correct_bias, correct_scales
        self._biased: list[Any] = []

    def attach(self, model: Any) -> None:
        """Round the chosen layers, and make room for shifts of their biases.

        Raises:
            InputError: biases are to be corrected, and there are none.
        """
        super().attach(model)
        if self.correct_bias:
            self._biased = attach_shifts(layer for layer, _ in self.changed_layers)

    def finish(self, model: Any, batches: Iterable[TokenBatch]) -> None:
        """Correct scales, then biases, where asked for and weights are rounded."""
        if not any(blended.value for _, blended in self.changed_layers):
            return
        sample = list(batches)
        if self.correct_scales:
            fit_scales(model, self.changed_layers, sample, self._biased)
        if self._biased:
            correct(model, self._biased, sample)

    def says(self) -> str:
        """How many layers and weights, and what of them is corrected."""
        every = super().says()
        if self.correct_scales:
            every += "; scales to correct"
        if not self.correct_bias:
            return every
        without = len(self.changed_layers) - len(self._biased)
        biased = f"{len(self._biased)} biases to correct"
        return f"{every}; {biased}, {without} layers have none"

    def made_for(self, weight: Tensor, name: str) -> nn.Module:
        """The grid of one layer.

        Raises:
            InputError: groups do not divide its inputs.
        """
        if self.group and weight.shape[1] % self.group:
            raise InputError(
                f"group is {self.group}, which does not divide the {weight.shape[1]} "
                f"inputs of {name}; give a divisor of them, or 0 for one scale a row"
            )
        grid = Grid(bits=self.bits, group=self.group or weight.shape[1])
        return _Learned(grid, weight) if self.scales == "learned" else _Largest(grid)


class Grid:
    """Where rounded weights lie."""

    def __init__(self, *, bits: int, group: int) -> None:
        """Take the bits of a weight, and how many in a row share a scale."""
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.group = group

    def rows(self, weight: Tensor) -> Tensor:
        """(out, in) -> (out * in / group, group), a scale each."""
        return weight.reshape(-1, self.group)

    def scales_of(self, rows: Tensor) -> Tensor:
        """(R,): with which the largest of (R, group) is the grid's end."""
        return (rows.abs().amax(1) / self.high).clamp(min=_TINY)

    def rounded(
        self, rows: Tensor, scales: Tensor, given: Tensor | None = None
    ) -> Tensor:
        """(R, group) on the grid, without a gradient.

        Args:
            rows: (R, group).
            scales: (R,), by which whole numbers are chosen.
            given: (R,), by which these are multiplied; the same where left out.
        """
        steps = rows.detach() * scales.reciprocal()[:, None]
        given = scales if given is None else given
        return steps.round_().clamp_(self.low, self.high).mul_(given[:, None])

    def best_scales(self, rows: Tensor) -> Tensor:
        """(R,): of some clipped ranges the one with the least squared error."""
        largest = self.scales_of(rows)
        best, least = largest, torch.full_like(largest, torch.inf)
        for part in torch.linspace(1.0, 0.5, _CLIPS, device=rows.device):
            scales = largest * part
            error = (self.rounded(rows, scales) - rows).square().sum(1)
            best = torch.where(error < least, scales, best)
            least = torch.minimum(error, least)
        return best


class _Largest(nn.Module):
    """Scales that follow the largest weight."""

    factors: Tensor | None
    """(out,) that scales are multiplied by once whole numbers are chosen; None: 1."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self._grid = grid
        self.register_buffer("factors", None, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        rows = self._grid.rows(weight)
        scales = given = self._grid.scales_of(rows.detach())
        if self.factors is not None:
            given = given * self.factors.repeat_interleave(len(rows) // len(weight))
        value = self._grid.rounded(rows, scales, given)
        on_grid: Tensor = _Straight.apply(rows, value)
        return on_grid.view(weight.shape)


class _Learned(nn.Module):
    """Scales that are trained."""

    begun: Tensor

    def __init__(self, grid: Grid, weight: Tensor) -> None:
        super().__init__()
        self._grid = grid
        self.register_buffer("begun", grid.best_scales(grid.rows(weight.float())))
        self.log_growth = nn.Parameter(torch.zeros_like(self.begun))
        """(R,): a scale is ``begun * exp(log_growth)``."""

    def forward(self, weight: Tensor) -> Tensor:
        grid = self._grid
        rows = grid.rows(weight)
        scales = (self.begun * self.log_growth.exp())[:, None].to(rows.dtype)
        share = (grid.group * grid.high) ** -0.5
        scales = scales * share + (scales * (1 - share)).detach()
        return lsq(rows, scales, grid.low, grid.high).view(weight.shape)


class _Straight(torch.autograd.Function):
    """Another value with the same gradient: no weight lies outside the grid whose end
    is the largest."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return slopes[0], None


def lsq(rows: Tensor, scales: Tensor, low: int, high: int) -> Tensor:
    """Round to a grid whose scale has a gradient as well.

    Args:
        rows: (R, G) float.
        scales: (R, 1), > 0.
        low: least number of steps.
        high: most.

    Returns:
        (R, G): ``s * round(clamp(w / s))``. Its gradient to ``w`` is 1 inside the range
        and 0 outside; to ``s`` it is ``round(w / s) - w / s`` inside, ``low`` or
        ``high`` outside.

    Source:
        Esser et al. 2020, LSQ (arXiv 1902.08153), equations 1 to 3. PyTorch's own
        takes what is less than half a step outside for inside.
    """
    on_grid: Tensor = _LearnedSteps.apply(rows, scales, low, high)
    return on_grid


class _LearnedSteps(torch.autograd.Function):
    """See :func:`lsq`; one pass over the weights a term, not one an operation."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scales: Tensor, low: int, high: int) -> Tensor:
        steps = rows / scales
        ctx.save_for_backward(steps)
        ctx.range = low, high
        return steps.round().clamp_(low, high).mul_(scales)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (steps,) = ctx.saved_tensors
        low, high = ctx.range
        # That of clamp in one pass, with a millionth more for the ends themselves.
        ends = low * (1 + _END), high * (1 + _END)
        inside = torch.ops.aten.hardtanh_backward(slopes[0], steps, *ends)
        on_grid = steps.round().clamp_(low, high).mul_(slopes[0])
        of_scales = on_grid.addcmul_(inside, steps, value=-1).sum(1, keepdim=True)
        return inside, of_scales, None, None
