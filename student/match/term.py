"""One term for every kind of comparison: a site, a projector, a distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from align.calibration import CalibrationStats
from align.errors import InputError
from align.sizes import Sizes
from align.support.field_types import PluginName
from student.bridges.base import PairStats
from student.bridges.standardize import Standardizer
from student.match.contrast import Contrastive
from student.match.distance import Cosine, Distance, Gram, Mse, SmoothL1
from student.match.layers import (
    Layers,
    LayerWeights,
    check_layers,
    chosen_layers,
    layer_shares,
)
from student.match.projector import PROJECTORS
from student.match.sites import SITES, SiteName
from student.match.spectrum import Spectrum
from student.match.spread import Spread
from student.match.transport import Transport
from student.match.whole import Cka, Mmd
from student.objective import Count, Sides, StepContext
from student.places import Places

DISTANCES: dict[str, Any] = {
    "mse": Mse,
    "smooth_l1": SmoothL1,
    "cosine": Cosine,
    "gram": Gram,
    "cka": Cka,
    "mmd": Mmd,
    "contrastive": Contrastive,
    "spectrum": Spectrum,
    "transport": Transport,
}
"""Built-in distances, by name."""

Chosen = str | dict[str, Any]
"""``NAME``, or ``{use: NAME, option: value}``; in code also a factory."""


class Match(nn.Module):
    """How far the student is from its teachers at one place in the network.

    The student's side goes through the projector of each teacher, where one is named;
    the teacher's side stands still. Both are compared on the student's layers and
    tokens by the distance, and averaged by the teachers' weights over tokens, by the
    layers' weights over layers.
    """

    compares = False

    def __init__(
        self,
        *,
        site: SiteName = "keys",
        distance: Annotated[Chosen, PluginName("distance")] = "cka",
        projector: Annotated[Chosen, PluginName("projector")] | None = None,
        layers: Layers = "all",
        layer_weights: LayerWeights = "equal",
        teachers: list[str] | None = None,
    ) -> None:
        """Say what is compared, and how.

        Args:
            site: ``keys`` before rotation, ``values``, or ``hidden``, the residual
                stream after each layer; standardised.
            distance: a registered distance.
            projector: a registered projector; null compares features as they are.
            layers: of the student: ``all``, ``last:K``, ``random:K`` (drawn for every
                step), or a list of numbers.
            layer_weights: ``equal``, or ``depth``, in proportion to the number.
            teachers: names; null: all that bring what is compared.

        Raises:
            InputError: layers cannot be meant, or an option of the distance cannot.
        """
        super().__init__()
        check_layers(layers)
        self.site = site
        self.distance: Distance = _factory(distance, DISTANCES)()
        self.projectors = nn.ModuleList()
        self.scales = nn.ModuleList()
        """Of a site that comes as it is, for each teacher: the student's, its own."""
        self._new_projector: Any = projector and _factory(projector, PROJECTORS)
        self._layers, self._layer_weights = layers, layer_weights
        self._teachers = teachers
        self._met: tuple[str, ...] | None = None

    @property
    def needs(self) -> frozenset[str]:
        """What the site needs."""
        return SITES[self.site].needs

    @property
    def count(self) -> Count | None:
        """None where the distance is a statistic of a whole pass."""
        return self._count if self.distance.per_token else None

    def meet(self, student: Sizes, teachers: Mapping[str, Sizes]) -> None:
        """Be told who is compared, before anything else; makes the projectors.

        Args:
            student: the student's sizes.
            teachers: those of the phase's teachers that take part, by name.

        Raises:
            InputError: a layer is not there; or widths differ, and nothing brings them
                together.
        """
        check_layers(self._layers, student.layers)
        width, kept = SITES[self.site].width, self._kept(student.layers)
        widths = {
            name: width(sizes)
            for name, sizes in teachers.items()
            if self._takes(name) and width(sizes)  # a store knows no hidden size
        }
        self._met = tuple(widths)
        if SITES[self.site].raw:
            self.scales = nn.ModuleList(
                nn.ModuleList(Standardizer(len(kept), w) for w in (width(student), w))
                for w in widths.values()
            )
        if self._new_projector is None:
            self._check_widths(width(student), widths)
            return
        self.projectors = nn.ModuleList(
            self._new_projector(width(student), theirs, len(kept))
            for theirs in widths.values()
        )

    @torch.no_grad()
    def fit(self, sample: Iterable[StepContext]) -> None:
        """Give the projectors useful weights before the first step.

        Args:
            sample: contexts of the calibration sample, read once.
        """
        if self._met is None:
            return
        if len(self.scales):
            self._fit_scales(sample)
        if self._new_projector is None:
            return
        stats: dict[str, PairStats] = {}
        for ctx in sample:
            for sides in filter(self._compared, SITES[self.site].sides(ctx)):
                x, y = self._pairs(sides)
                if sides.name not in stats:
                    stats[sides.name] = _no_pairs(x, y)
                stats[sides.name].to_teacher.update(x, y)
                stats[sides.name].to_student.update(y, x)
        for name, projector in zip(self._met, self.projectors, strict=True):
            fit: Any = getattr(projector, "fit", None)
            if fit and name in stats and stats[name].to_teacher.n:
                fit(stats[name])

    def _fit_scales(self, sample: Iterable[StepContext]) -> None:
        spreads: dict[str, tuple[Spread, Spread]] = {}
        for ctx in sample:
            for sides in filter(self._compared, SITES[self.site].sides(ctx)):
                spread = spreads.setdefault(sides.name, (Spread(), Spread()))
                for side, x in zip(spread, self._pairs(sides, raw=True), strict=True):
                    side.update(x)
        for name, (student, teacher) in spreads.items():
            scales: Any = self.scales[self._index(name)]
            if student.n:
                scales[0].fit(student.mean, student.std)
                scales[1].fit(teacher.mean, teacher.std)

    def _pairs(self, sides: Sides, raw: bool = False) -> tuple[Tensor, Tensor]:
        """(L', N, C_s), (L', N, C_t): the tokens that are compared, on kept layers."""
        known = (sides.weight > 0).expand(len(sides.student), -1, -1).any(0)
        x, y = self._sides(sides, raw)
        return x[:, known], y[:, known]

    def _sides(self, sides: Sides, raw: bool = False) -> tuple[Tensor, Tensor]:
        """Both sides of the kept layers, standardised."""
        kept = self._kept(len(sides.student))
        x, y = sides.student[kept], sides.teacher[kept]
        if raw or not len(self.scales):
            return x, y
        scales: Any = self.scales[self._index(sides.name)]
        return scales[0](x), scales[1](y)

    def _index(self, teacher: str) -> int:
        assert self._met is not None, "meet() makes what is of a teacher"
        return self._met.index(teacher)

    def forward(self, ctx: StepContext) -> Tensor:
        """See :class:`student.objective.Objective`."""
        total, weight = ctx.zero(), ctx.zero()
        for sides in filter(self._compared, SITES[self.site].sides(ctx)):
            cost, weighs = self._of_teacher(sides, ctx.step)
            total, weight = total + cost, weight + weighs
        return total / ctx.total(0, weight)

    def _of_teacher(self, sides: Sides, step: int) -> tuple[Tensor, Tensor]:
        """The cost of one teacher's tokens, and what they weigh together."""
        every = len(sides.student)
        chosen, kept = chosen_layers(self._layers, every, step), self._kept(every)
        pred, target = self._projected(sides.name, *self._sides(sides))
        if len(chosen) < len(kept):
            drawn = [kept.index(layer) for layer in chosen]
            pred, target = pred[drawn], target[drawn]
        pred, target = _wide(pred), _wide(target).detach()
        weight = sides.weight.expand(every, *sides.weight.shape[-2:])[chosen]
        shares = layer_shares(self._layer_weights, chosen, pred)
        with torch.autocast(pred.device.type, enabled=False):
            apart = self.distance(pred, target, weight)
        weighs = (weight.sum((1, 2)) * shares).sum()
        if self.distance.per_token:
            return ((apart * weight).sum((1, 2)) * shares).sum(), weighs
        return (apart * shares).sum() * weighs, weighs

    def _kept(self, num_layers: int) -> list[int]:
        """The layers that any step may compare, for which there are projectors."""
        if str(self._layers).startswith("random"):
            return list(range(num_layers))
        return chosen_layers(self._layers, num_layers, 0)

    def _projected(self, name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides of the kept layers, as they are compared."""
        if self._new_projector is None:
            return x, y
        projector: Any = self.projectors[self._index(name)]
        if hasattr(projector, "target"):
            with torch.no_grad():
                y = projector.target(y)
        return projector(x), y

    def _compared(self, sides: Sides) -> bool:
        return self._takes(sides.name)

    def _takes(self, teacher: str) -> bool:
        return self._teachers is None or teacher in self._teachers

    def _count(self, places: Places) -> list[float]:
        weight = SITES[self.site].weight(places)
        kept = [m for m, r in enumerate(places.readings) if self._takes(r.name)]
        return [float(weight[..., kept].double().sum())]

    def _check_widths(self, student: int, teachers: Mapping[str, int]) -> None:
        other = [name for name, width in teachers.items() if width != student]
        if not other or not self.distance.equal_widths:
            return
        free = [name for name, made in DISTANCES.items() if not made.equal_widths]
        raise InputError(
            f"{self.site} are {student} wide in the student and {teachers[other[0]]} "
            f"in teacher {other[0]!r}, and the distance compares equal widths alone; "
            f"give a projector ({', '.join(PROJECTORS)}), or a distance of any widths "
            f"({', '.join(free)})"
        )


def _factory(chosen: Any, known: Mapping[str, Any]) -> Any:
    """What a name, or a name with options, stands for among the built-in ones."""
    if callable(chosen):
        return chosen
    options = {"use": chosen} if isinstance(chosen, str) else dict(chosen)
    name = options.pop("use", None)
    if name not in known:
        raise InputError(f"no {name!r} among {', '.join(known)}")
    return lambda *sizes: known[name](*sizes, **options)


def _no_pairs(x: Tensor, y: Tensor) -> PairStats:
    """Of features (L, N, C) of student and teacher."""
    (layers, _, student), teacher, device = x.shape, y.shape[2], str(x.device)
    return PairStats(
        CalibrationStats(layers, teacher, student, device),
        CalibrationStats(layers, student, teacher, device),
    )


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
