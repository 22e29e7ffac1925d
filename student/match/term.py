"""One term for every kind of comparison: a site, a projector, a distance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.products.autocast import without_autocast
from align.sizes import Sizes
from align.support.field_types import AtLeastOne, PluginName
from student.match.choices import (
    DISTANCES,
    Chosen,
    check_site,
    check_widths,
    factory,
)
from student.match.distance import Distance, ignores_rotation
from student.match.heads import HeadPairing, Heads, costs_of_pairs
from student.match.layers import (
    GradientLengths,
    LayerChoice,
    Layers,
    LayerWeights,
    layer_shares,
    told_best,
)
from student.match.logits import logit_costs
from student.match.pooling import pooled
from student.match.projector import PROJECTORS, fit_projectors
from student.match.rows import check_keys, restricted
from student.match.scales import Scale, Scales
from student.match.sites import SiteName, StateName, site_of
from student.objective import ChosenLayers, Count, Sides, StepContext
from student.places import Places


class Match(nn.Module):
    """How far the student is from its teachers at one place in the network.

    The student's side goes through the projector of each teacher, where one is named;
    the teacher's side stands still. Both are compared on the student's layers and
    tokens by the distance, and averaged by the teachers' weights over tokens, by the
    layers' weights over layers.
    """

    compares = False
    probed: Tensor

    def __init__(
        self,
        *,
        site: SiteName = "keys",
        state: StateName = "given",
        distance: Annotated[Chosen, PluginName("distance")] = "cka",
        projector: Annotated[Chosen, PluginName("projector")] | None = None,
        layers: Layers = "all",
        layer_weights: LayerWeights = "equal",
        heads: Heads = "mean",
        keys: str = "all",
        pool: AtLeastOne = 1,
        scale: Scale | None = None,
        teachers: list[str] | None = None,
    ) -> None:
        """Say what is compared, and how.

        Args:
            site: ``keys`` before rotation, ``values``, ``hidden``, the residual
                stream after each layer, or ``embeddings``, the input's, standardised;
                ``logits``, those of teachers of the student's vocabulary, from their
                mean; or ``attention``, the probabilities of every head at
                ``loss.attention_rows`` queries a text.
            state: of ``hidden``: ``given``, as the model itself gives them, after the
                last layer with the final norm; ``residual``, before the norm that
                reads or makes them; ``normed``, after it; ``both``, side by side.
            distance: a registered distance.
            projector: a registered projector; null compares features as they are.
            layers: of the student: ``all``, ``first:K``, ``last:K``, ``random:K``
                (drawn for every step), ``gradient:K`` (those that get the longest
                gradients), ``probe:K`` (those whose teachers' features tell the next
                token best on the calibration sample), each also as ``{last: K}`` with a
                schedule for K; ``rising:STEPS`` (from the lowest up); or numbers.
            layer_weights: ``equal``, ``depth``, in proportion to the number, or
                ``gradient``, to the length of the gradient that a layer gets.
            heads: of attention, which of the teacher's goes with which of the
                student's: ``mean``, ``groups``, ``each``, ``nearest``, ``hungarian``.
            keys: of attention, the tokens that are compared: ``all``, ``local:N``,
                ``global:N``, ``top:K``.
            pool: so many tokens in a row are compared as one, their mean by weight.
            scale: of features, ``channel``: each is divided by its own spread on the
                calibration sample; ``layer``: all of a layer by one number; null:
                ``layer`` where distance or projector ignores rotations.
            teachers: names; null: all that bring what is compared.

        Raises:
            InputError: layers or tokens cannot be meant, an option of the distance
                cannot, or options do not go together.
        """
        super().__init__()
        self.layers = LayerChoice(layers)
        check_keys(keys)
        self.site, self._at = site, site_of(site, state)
        self.distance: Distance = factory(distance, DISTANCES)()
        self._compare = self.distance.__call__  # with numbers in place of schedules
        self.pairing = HeadPairing(heads)
        self._keys, self._pool, self._scale = keys, pool, scale
        self.projectors = nn.ModuleList()
        self.lengths: GradientLengths | None = None
        self.chosen: ChosenLayers | None = None
        self.scales: Scales | None = None
        """Of a site that comes as it is."""
        self._new_projector: Any = projector and factory(projector, PROJECTORS)
        self._layer_weights = layer_weights
        self._teachers = teachers
        self._met: tuple[str, ...] | None = None
        check_site(
            self.site,
            self.distance,
            projected=projector is not None,
            apart=heads != "mean" or keys != "all",
            pool=pool,
            scaled=scale is not None,
            by_layer=self.layers.rule != "all" or layer_weights != "equal",
        )
        if self.layers.rule == "probe" and self._at.rows:
            raise InputError(
                f"layers is {layers!r}, but rows of attention hold no features that a "
                "probe could read; choose others, or another site"
            )

    @property
    def needs(self) -> frozenset[str]:
        """What the site needs."""
        return self._at.needs

    @property
    def same_vocabulary(self) -> bool:
        """Whether it compares token by token in one vocabulary."""
        return self._at.blocks

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
        self.layers.check(self._at.layers(student))
        width, kept = self._at.width, self.layers.kept(self._at.layers(student))
        widths = {
            name: width(sizes)
            for name, sizes in teachers.items()
            if self._takes(name) and width(sizes)  # a store knows no hidden size
        }
        self._met = tuple(widths)
        if "gradient" in (self.layers.rule, self._layer_weights):
            self.lengths = GradientLengths(len(kept))
        if self.layers.rule == "probe":
            self.register_buffer("probed", torch.arange(len(kept)).flip(0))
        if self._at.blocks:
            return
        if self._at.rows:
            self.pairing.meet(width(student), widths, len(kept))
            return
        if self._at.raw:
            self.scales = Scales(width(student), widths, len(kept))
        if self._new_projector is None:
            check_widths(self.site, self.distance, width(student), widths)
        else:
            self.projectors = nn.ModuleList(
                self._new_projector(width(student), theirs, len(kept))
                for theirs in widths.values()
            )
        if self._scale is None:
            turned = any(map(ignores_rotation, (self.distance, *self.projectors)))
            self._scale = "layer" if turned else "channel"

    @torch.no_grad()
    def fit(self, sample: Iterable[StepContext]) -> None:
        """Give the projectors useful weights before the first step.

        Args:
            sample: contexts of the calibration sample, read once.
        """
        if self._met is None:
            return
        if self.pairing.chosen:
            self._fit_heads(sample)
        if self.scales is not None:
            assert self._scale is not None
            self.scales.fit(self._scale, self._every_pair(sample, raw=True))
        if self.layers.rule == "probe":
            self._fit_probed(sample)
        if self._new_projector is not None:
            projectors = dict(zip(self._met, self.projectors, strict=True))
            fit_projectors(projectors, self._every_pair(sample))

    def _fit_heads(self, sample: Iterable[StepContext]) -> None:
        costs: dict[str, Tensor] = {}
        for ctx in sample:
            self._compare = ctx.options(self.distance, "distance").__call__
            for pair in filter(self._compared, self._at.sides(ctx)):
                kept = self.layers.kept(len(pair.student))
                weight = pair.weight.expand(len(pair.student), -1, -1)[kept]
                cost = partial(self._weighed_rows, weight=weight, rows=pair.rows)
                every = costs_of_pairs(pair.student[kept], pair.teacher[kept], cost)
                costs[pair.name] = costs.get(pair.name, 0) + every
        self.pairing.fit(costs)

    def _fit_probed(self, sample: Iterable[StepContext]) -> None:
        def look(ctx: StepContext) -> Iterator[tuple[Sides, Tensor, Tensor]]:
            for sides in filter(self._compared, self._at.sides(ctx)):
                yield sides, self._pairs(sides)[1], sides.known

        scores = told_best(sample, look)
        if scores is not None:
            best = scores.argsort(descending=True, stable=True)
            self.probed.copy_(best.to(self.probed.device))

    def _every_pair(
        self, sample: Iterable[StepContext], raw: bool = False
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Teachers' names, with :meth:`_pairs` of all that is compared."""
        for ctx in sample:
            for sides in filter(self._compared, self._at.sides(ctx)):
                yield sides.name, *self._pairs(sides, raw)

    def _pairs(self, sides: Sides, raw: bool = False) -> tuple[Tensor, Tensor]:
        """(L', N, C_s), (L', N, C_t): the tokens that are compared, on kept layers."""
        x, y = self._sides(sides, raw)
        return x[:, sides.known], y[:, sides.known]

    def _sides(self, sides: Sides, raw: bool = False) -> tuple[Tensor, Tensor]:
        """Both sides of the kept layers, standardised."""
        kept = self.layers.kept(len(sides.student))
        x, y = sides.student[kept], sides.teacher[kept]
        if raw:
            return x, y
        if self.scales is None:
            if self._scale != "layer" or sides.sizes is None:
                return x, y
            ours, theirs = (sizes[kept][:, None, None] for sizes in sides.sizes)
            return x * ours, y * theirs
        both: tuple[Tensor, Tensor] = self.scales(sides.name, x, y)
        return both

    def _index(self, teacher: str) -> int:
        assert self._met is not None, "meet() makes what is of a teacher"
        return self._met.index(teacher)

    def forward(self, ctx: StepContext) -> Tensor:
        """See :class:`student.objective.Objective`."""
        total, weight = ctx.zero(), ctx.zero()
        self.chosen = None
        pulls: list[Tensor] = []
        self._compare = ctx.options(self.distance, "distance").__call__
        if self.lengths is not None:
            self.lengths.turn(ctx.step)
        for cost, weighs in self._costs(ctx, pulls):
            total, weight = total + cost, weight + weighs
        if self.lengths is not None and torch.is_grad_enabled():
            nothing = torch.zeros_like(self.lengths.squares)
            self.lengths.gather(sum(pulls, nothing), ctx.over_processes)
        return total / ctx.total(0, weight)

    def _costs(
        self, ctx: StepContext, pulls: list[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Of every teacher: what its places cost, and what they weigh together; the
        squared lengths of its layers' gradients go into ``pulls``."""
        if self._at.blocks and ctx.outputs is not None:
            yield from logit_costs(ctx.outputs, self._compare, self._takes)
        for sides in filter(self._compared, self._at.sides(ctx)):
            yield self._of_teacher(sides, ctx, pulls)

    def _of_teacher(
        self, sides: Any, ctx: StepContext, pulls: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The cost of one teacher's tokens, and what they weigh together."""
        every = len(sides.student)
        kept = self.layers.kept(every)
        chosen = self.layers.chosen(every, ctx, self._ranked())
        compared = chosen if self.lengths is None else kept
        places = [kept.index(layer) for layer in compared]
        pred, target = self._projected(sides.name, *self._sides(sides))
        if len(compared) < len(kept):
            pred, target = pred[places], target[places]
        pred, target = _wide(pred), _wide(target).detach()
        weight = sides.weight.expand(every, *sides.weight.shape[-2:])[compared]
        with without_autocast(pred):
            if self._at.rows:
                pred, target = self.pairing(sides.name, pred, target, places)
                apart = self._of_rows(pred, target, weight, sides.rows).mean(1)
            else:
                pred, target, weight = pooled(pred, target, weight, self._pool)
                apart = self._compare(pred, target, weight)
        weighs = weight.sum((1, 2))
        costs = (apart * weight).sum((1, 2)) if self.distance.per_token else apart
        shares = layer_shares(self._layer_weights, chosen, pred)
        if self.lengths is not None:
            pulls.append(self.lengths.of(costs, sides.student, kept))
            drawn = [kept.index(layer) for layer in chosen]
            costs, weighs = costs[drawn], weighs[drawn]
            if self._layer_weights == "gradient":
                shares = self.lengths.shares(drawn).to(pred)
        self._remember(chosen, shares, every)
        if self.distance.per_token:
            return (costs * shares).sum(), (weighs * shares).sum()
        together = (weighs * shares).sum()
        return (costs * shares).sum() * together, together

    def _remember(self, layers: list[int], shares: Tensor, every: int) -> None:
        """What settings do not say, for whoever writes it down."""
        moves, weighed = not self.layers.settled, self._layer_weights == "gradient"
        if moves or weighed:
            weights = shares.new_zeros(every)
            weights[layers] = shares.detach()
            self.chosen = ChosenLayers(
                layers if moves else None, weights if weighed else None
            )

    def _ranked(self) -> list[int] | None:
        """All layers, the best first, where a comparison says so."""
        if self.layers.rule == "probe":
            order: list[int] = self.probed.tolist()
            return order
        if self.layers.rule == "gradient":
            assert self.lengths is not None
            return self.lengths.ranked()
        return None

    def _of_rows(
        self, pred: Tensor, target: Tensor, weight: Tensor, rows: Tensor
    ) -> Tensor:
        """(L, P, B, R, T) of heads side by side -> (L, P, B, R)."""
        pred, target, known = restricted(pred, target, rows, self._keys)
        layers, heads = pred.shape[:2]
        every = weight.repeat_interleave(heads, 0)  # as layers, one head after another
        apart = self._compare(pred.flatten(0, 1), target.flatten(0, 1), every)
        return torch.where(known, apart.unflatten(0, (layers, heads)), 0.0)

    def _weighed_rows(
        self, pred: Tensor, target: Tensor, *, weight: Tensor, rows: Tensor
    ) -> Tensor:
        return self._of_rows(pred, target, weight, rows) * weight[:, None]

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
        weight = self._at.weight(places)
        kept = [m for m, r in enumerate(places.readings) if self._takes(r.name)]
        return [float(weight[..., kept].double().sum())]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
