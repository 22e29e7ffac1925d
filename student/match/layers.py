"""Which of the student's layers a term compares, and how much each counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from align.calibration import METHODS, CalibrationStats, r_squared
from align.errors import InputError
from student.objective import Sides, StepContext

LayerWeights = Literal["equal", "depth", "gradient"]
Layers = str | list[int]
"""``all``, ``last:K``, ``random:K``, ``rising:STEPS``, ``gradient:K``, ``probe:K``, or
numbers, of which -1 is the last layer's."""

_SOME = re.compile(r"(last|random|rising|gradient|probe):([1-9][0-9]*)")
_SLOW = 0.9
"""What of a running mean stays with every step."""

CLASSES = 64
"""Next tokens that a probe tells apart, the sample's most frequent."""

Look = Callable[[StepContext], Iterable[tuple[Sides, Tensor, Tensor]]]
"""From a context to each teacher's sides, its features (L, N, C) float at the tokens
that are compared, and where these stand, (B, T) bool."""


def check_layers(layers: Layers, num_layers: int | None = None) -> None:
    """See that layers are meant that there are.

    Args:
        layers: as a config says it.
        num_layers: L of the student; None while nobody knows it.

    Raises:
        InputError: they are not, or none is.
    """
    if isinstance(layers, str):
        some = _SOME.fullmatch(layers)
        if layers != "all" and some is None:
            raise InputError(
                f"layers is {layers!r}; give all, last:K, random:K, rising:STEPS, "
                "gradient:K, probe:K or a list of layer numbers"
            )
        counted = some is not None and some[1] != "rising"
        if some and counted and num_layers is not None and int(some[2]) > num_layers:
            raise InputError(
                f"layers is {layers!r}, but the student has {num_layers} layers"
            )
        return
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"layers is {layers}; give one layer or more, each once")
    if num_layers is None:
        return
    beyond = [layer for layer in layers if not -num_layers <= layer < num_layers]
    if beyond:
        raise InputError(
            f"layers asks for layer {beyond[0]}, but the student has layers "
            f"0..{num_layers - 1}, or -1..{-num_layers} from the top"
        )
    if len({layer % num_layers for layer in layers}) < len(layers):
        raise InputError(f"layers is {layers}, which names a layer twice")


def chosen_layers(layers: Layers, num_layers: int, step: int) -> list[int]:
    """The student's layers that are compared in one optimiser step, ascending.

    Args:
        layers: as a config says it.
        num_layers: L.
        step: of the phase, from 0. ``random:K`` draws anew for each, alike in all
            passes and processes; ``rising:STEPS`` begins with the lowest layer and
            goes up evenly, all layers from step ``STEPS - 1`` on. Which ``gradient:K``
            are, :class:`GradientLengths` knows, and which ``probe:K``, the calibration
            sample; here they are all.
    """
    if layers == "all" or str(layers).startswith(("gradient", "probe")):
        return list(range(num_layers))
    if not isinstance(layers, str):
        return sorted(layer % num_layers for layer in layers)
    some = _SOME.fullmatch(layers)
    assert some is not None
    count = int(some[2])
    if some[1] == "last":
        return list(range(num_layers - count, num_layers))
    if some[1] == "rising":
        reached = -(-num_layers * (step + 1) // count)  # rounded up
        return list(range(min(reached, num_layers)))
    generator = torch.Generator().manual_seed(step)
    drawn = torch.randperm(num_layers, generator=generator)[:count]
    return sorted(drawn.tolist())


def varies(layers: Layers) -> bool:
    """Whether the layers that are compared are others from step to step."""
    return str(layers).startswith(("random", "rising", "gradient", "probe"))


def by_gradient(layers: Layers, weights: LayerWeights) -> bool:
    """Whether gradients say which layers are compared, or how much they count."""
    return weights == "gradient" or str(layers).startswith("gradient")


def by_probe(layers: Layers) -> bool:
    """Whether a look at the calibration sample says which layers are compared."""
    return str(layers).startswith("probe")


class GradientLengths(nn.Module):
    """How long the gradient is that a term gives every layer, a running mean.

    Measured before the layers' weights and on all that may be compared, so that none
    wins by having won. Every step counts by its layers' shares of the sum over passes
    and processes; what a step finds is used from the next one on.

    Source:
        Recipes for distillation weigh layer l by λ exp(η G_l / ΣG), G its gradient's
        length. Departure: by G_l / ΣG itself, which needs no η and stays bounded.
    """

    mean: Tensor
    gathered: Tensor
    step: Tensor

    def __init__(self, layers: int) -> None:
        """Know nothing of so many layers."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(layers))
        self.register_buffer("gathered", torch.zeros(layers))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def turn(self, step: int) -> None:
        """Let a step begin: what the last one gathered counts from now on."""
        if step == int(self.step):
            return
        self.step.fill_(step)
        total = self.gathered.sum()
        if total > 0:
            shares, known = self.gathered / total, self.mean.sum() > 0
            mixed = _SLOW * self.mean + (1 - _SLOW) * shares
            self.mean.copy_(torch.where(known, mixed, shares))
        self.gathered.zero_()

    def of(self, costs: Tensor, features: Tensor, kept: Sequence[int]) -> Tensor:
        """Of one pass, (L',) float32, 0 where there is nothing to learn.

        Args:
            costs: (L',), of every kept layer.
            features: (L, B, T, C) of the student, from which they come.
            kept: numbers of L' among L.
        """
        learns = torch.is_grad_enabled() and features.requires_grad
        if not (learns and costs.requires_grad):
            return torch.zeros_like(self.mean)
        total = costs.sum()
        (gradient,) = torch.autograd.grad(total, features, retain_graph=True)
        return gradient[list(kept)].detach().float().flatten(1).norm(dim=1)

    @torch.no_grad()
    def gather(
        self, lengths: Tensor, total: Callable[[Sequence[float]], list[float]]
    ) -> None:
        """Add those of a pass, of all processes, which must all come here."""
        every = total(lengths.double().tolist())
        self.gathered += self.gathered.new_tensor(every)

    def longest(self, count: int) -> list[int]:
        """Places of so many layers, ascending; of all while nothing is known."""
        if not float(self.mean.sum()):
            return list(range(len(self.mean)))
        return sorted(self.mean.topk(count).indices.tolist())

    def shares(self, places: Sequence[int]) -> Tensor:
        """(L',) summing to 1; equal ones while nothing is known."""
        lengths = self.mean[list(places)]
        total = lengths.sum()
        equal = torch.full_like(lengths, 1 / len(lengths))
        return torch.where(total > 0, lengths / total.clamp_min(1e-30), equal)


def layer_shares(weights: LayerWeights, chosen: Sequence[int], like: Tensor) -> Tensor:
    """How much each of the chosen layers counts, (L',) summing to 1.

    Args:
        weights: ``equal``, or ``depth``: in proportion to the layer's number from 1;
            of ``gradient`` :class:`GradientLengths` knows.
        chosen: numbers from 0.
        like: gives device and dtype.
    """
    shares = torch.tensor(
        [1.0 if weights == "equal" else layer + 1.0 for layer in chosen],
        device=like.device,
        dtype=like.dtype,
    )
    return shares / shares.sum()


@torch.no_grad()
def told_best(sample: Iterable[StepContext], look: Look) -> Tensor | None:
    """How well each layer tells the next token, a mean over teachers.

    A linear probe is fitted on every other token of the sample, and judged on the rest.

    Args:
        sample: read twice.
        look: see :data:`Look`.

    Returns:
        (L,) float64, the share of variance that is explained of an indicator of each of
        the most frequent next tokens; None where there is nothing to fit.

    Source:
        Alain and Bengio 2016, Understanding intermediate layers using linear classifier
        probes (arXiv 1610.01644). It stands for the information that a layer holds of
        what is to be predicted, by which recipes weigh layers. Departures: ridge
        regression on indicators in place of a classifier, which has a closed form.
    """
    counts: Counter[int] = Counter()
    for ctx in sample:
        counts.update(ctx.batch.ids[:, 1:][ctx.batch.predicted[:, 1:]].tolist())
    classes = torch.tensor([token for token, _ in counts.most_common(CLASSES)])
    halves: dict[str, tuple[CalibrationStats, CalibrationStats]] = {}
    for ctx in sample:
        predicted, ids = ctx.batch.predicted, ctx.batch.ids
        before = predicted.roll(-1, 1)
        before[:, -1:] = False
        following = ids.roll(-1, 1)
        for sides, features, known in look(ctx):
            kept = before[known]
            x, after = features[:, kept], following[known][kept]
            labels = (after[:, None] == classes.to(after.device)).float()
            y = labels.expand(len(x), -1, -1)
            if sides.name not in halves:
                sizes = len(x), x.shape[2], len(classes), str(x.device)
                halves[sides.name] = CalibrationStats(*sizes), CalibrationStats(*sizes)
            for half, stats in enumerate(halves[sides.name]):
                stats.update(x[:, half::2].float(), y[:, half::2])
    scores = [
        r_squared(judged, *METHODS["ridge"](fitted)).cpu()
        for fitted, judged in halves.values()
        if fitted.n and judged.n
    ]
    return torch.stack(scores).nan_to_num(0.0).mean(0) if scores else None
