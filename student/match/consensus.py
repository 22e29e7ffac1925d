"""Learn what several teachers agree on, in place of all that each of them says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from align.calibration import METHODS, CalibrationStats
from align.consensus import agreement, fit_consensus
from align.errors import InputError
from align.sizes import Sizes
from align.support.field_types import AtLeastOne
from student.bridges.projected import LayerwiseLinear
from student.match.sites import site_of
from student.objective import Sides, StepContext
from student.places import Places


class Consensus(nn.Module):
    """How far the student is from the directions on which its teachers agree.

    Of the tokens that every teacher covers: squared distance of a linear map of the
    student's features from z, direction by direction, each weighed by how far the
    teachers agree on it on texts that it was not fitted on. z and the weights come from
    the calibration sample and stand still; the map begins with ridge regression and
    learns.

    Source:
        Kettenring (1971), MAXVAR: :func:`align.consensus.fit_consensus`. The loss is
        Σ_i ρ_i (ẑ_i - z_i)² / Σ_i ρ_i with z_i of unit variance. ρ_i is the correlation
        of the teachers' guesses of the i-th direction (the mean over pairs, at least
        0), fitted on every other text and measured on those between, both ways.
    """

    compares = False
    weight: Tensor
    shift: Tensor
    agreement: Tensor

    def __init__(
        self,
        *,
        site: Literal["keys", "values"] = "keys",
        dims: AtLeastOne = 24,
        strength: float = 1e-2,
    ) -> None:
        """Say of what, and how many directions.

        Args:
            site: ``keys`` before rotation, or ``values``.
            dims: D, the directions on which teachers agree most; no more than their
                channels together.
            strength: λ >= 0 beside the unit variance of a channel.

        Raises:
            InputError: ``strength`` < 0.
        """
        super().__init__()
        if strength < 0:
            raise InputError(f"strength must be >= 0, got {strength}")
        self._at = site_of(site, "given")
        self.needs = self._at.needs
        self._dims, self._strength = dims, strength
        self._met: dict[str, int] | None = None
        self.projector: LayerwiseLinear | None = None

    def meet(self, student: Sizes, teachers: Mapping[str, Sizes]) -> None:
        """Be told who agrees, before anything else.

        Args:
            student: the student's sizes.
            teachers: those of the phase's teachers that take part, by name.

        Raises:
            InputError: fewer than two bring what is compared.
        """
        width = self._at.width
        widths = {n: width(sizes) for n, sizes in teachers.items() if width(sizes)}
        if len(widths) < 2:
            names = ", ".join(map(repr, widths)) or "no teacher"
            raise InputError(
                f"a consensus takes two or more teachers, and {names} brings keys and "
                "values here; give more, or compare with `use: match`"
            )
        self._make(student.layers, width(student), widths)

    def _make(self, layers: int, student: int, teachers: dict[str, int]) -> None:
        self._met = teachers
        channels = sum(teachers.values())
        shape = layers, min(self._dims, channels)
        self.register_buffer("weight", torch.zeros(layers, channels, shape[1]))
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("agreement", torch.zeros(shape))
        self.projector = LayerwiseLinear(layers, student, shape[1])

    @torch.no_grad()
    def fit(self, sample: Iterable[StepContext]) -> None:
        """Find the directions, what they weigh, and where the map begins.

        Args:
            sample: contexts of the calibration sample, read twice. Where no token of
                it is covered by all teachers, nothing is learned of the term.
        """
        if self._met is None:
            self._meet_sample(sample)
        if self._met is None:
            return
        widths, dims = list(self._met.values()), self.weight.shape[2]
        every, *halves = (self._sums(self.weight.shape[1]) for _ in range(3))
        for _, teachers, known in self._every(sample):
            odd = torch.arange(len(known), device=known.device)[:, None] % 2 == 1
            for sums, which in zip(
                (every, *halves), (known, known & odd, known & ~odd), strict=True
            ):
                x = teachers[:, which]
                sums.update(x, x[:, :, :1])
        if not every.n:
            return
        together = fit_consensus(every, widths, self._strength)
        weight = together.weight[:, :, :dims]
        self.weight.copy_(weight)
        self.shift.copy_((every.mean_x[:, None] @ weight)[:, 0])
        scores = [
            agreement(fit_consensus(fitted, widths, self._strength), other)
            for fitted, other in (halves, halves[::-1])
            if fitted.n and other.n
        ] or [agreement(together, every)]
        self.agreement.copy_(torch.stack(scores).mean(0)[:, :dims].clamp(min=0))
        self._fit_projector(sample)

    def _meet_sample(self, sample: Iterable[StepContext]) -> None:
        """Take up those that a sample shows, where nobody has said who agrees."""
        for ctx in sample:
            sides = list(self._at.sides(ctx))
            if len(sides) > 1 and self._met is None:
                layers, *_, student = sides[0].student.shape
                widths = {side.name: side.teacher.shape[-1] for side in sides}
                self._make(layers, student, widths)

    def _fit_projector(self, sample: Iterable[StepContext]) -> None:
        assert self.projector is not None
        _, narrow, dims = self.projector.weight.shape
        stats = self._sums(narrow, dims)
        for student, teachers, known in self._every(sample):
            stats.update(student[:, known].float(), self._z(teachers)[:, known])
        weight, bias = METHODS["ridge"](stats)
        self.projector.weight.copy_(weight)
        self.projector.bias.copy_(bias)

    def _sums(self, x: int, y: int = 1) -> CalibrationStats:
        device = str(self.weight.device)
        return CalibrationStats(len(self.weight), x, y, device=device)

    def _every(
        self, sample: Iterable[StepContext]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for ctx in sample:
            met = self._sides(ctx)
            if met is not None:
                student, teachers, weight = met
                yield student, teachers, (weight > 0).any(0)

    def _sides(self, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor] | None:
        """The student's features, all teachers' side by side, and (L, B, T) what tokens
        weigh that every teacher covers; None where one is not there."""
        sides: dict[str, Sides] = {side.name: side for side in self._at.sides(ctx)}
        if self._met is None or any(name not in sides for name in self._met):
            return None
        chosen = [sides[name] for name in self._met]
        student = chosen[0].student
        weights = torch.stack([s.weight.expand(student.shape[:3]) for s in chosen])
        weight = weights.sum(0) * (weights > 0).all(0)
        return student, torch.cat([side.teacher for side in chosen], -1), weight

    def _z(self, teachers: Tensor) -> Tensor:
        """(L, B, T, C) of all teachers -> (L, B, T, D), detached."""
        x = teachers.detach().to(self.weight.dtype)
        z = torch.einsum("lbtc,lcd->lbtd", x, self.weight)
        return z - self.shift[:, None, None]

    def forward(self, ctx: StepContext) -> Tensor:
        """See :class:`student.objective.Objective`."""
        met = self._sides(ctx)
        if met is None:
            return ctx.zero()
        assert self.projector is not None
        student, teachers, weight = met
        with torch.autocast(student.device.type, enabled=False):
            pred = self.projector(student.to(self.weight.dtype))
            apart = (pred - self._z(teachers)).square()
            shares = self.agreement / self.agreement.sum(1, keepdim=True).clamp(1e-12)
            costs = (apart * shares[:, None, None]).sum(-1)
            total = (costs * weight).sum() / len(weight)
        return total / ctx.total(0, weight.mean(0).sum())

    def count(self, places: Places) -> list[float]:
        """What the tokens weigh that every teacher covers."""
        weight = self._at.weight(places)
        kept = [
            m
            for m, reading in enumerate(places.readings)
            if self._met is None or reading.name in self._met
        ]
        if self._met is not None and len(kept) < len(self._met):
            return [0.0]
        weight = weight[..., kept]
        return [float((weight.sum(-1) * (weight > 0).all(-1)).double().sum())]
