"""From the student's features to a teacher's: the contract, and the built-in maps.

A projector stands on the student's side, so it may learn from the distance itself: the
teacher's side stands still, and no shrinking of both can win.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from align.calibration import METHODS, CalibrationStats
from align.errors import InputError
from align.products.autocast import without_autocast
from align.support.field_types import AtLeastOne
from student.bridges.base import PairStats
from student.bridges.projected import LayerwiseLinear, mapped


class Projector(nn.Module):
    """Maps features of every layer by themselves; a plugin of the kind ``projector``.

    A factory takes the student's width, the teacher's width and the number of layers,
    then its options. What finds a rotated model says so by an attribute
    ``ignores_rotation`` that is True, see :class:`student.match.distance.Distance`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(L, B, T, C_s) float to (L, B, T, C), as wide as :meth:`target` makes."""
        raise NotImplementedError

    def target(self, y: Tensor) -> Tensor:
        """What the teacher's features (L, B, T, C_t) are compared as; fixed."""
        return y

    def fit(self, stats: PairStats) -> None:
        """Take useful weights in closed form, before the first step.

        Args:
            stats: of the features on a sample, both ways.
        """


class Linear(Projector):
    """One linear map a layer; calibrated by ridge regression."""

    def __init__(self, student: int, teacher: int, layers: int) -> None:
        """Begin with a rotation, as far as the widths allow."""
        super().__init__()
        self.map = _rotation(student, teacher, layers)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`Projector.forward`."""
        return torch.as_tensor(self.map(x))

    def fit(self, stats: PairStats) -> None:
        """See :meth:`Projector.fit`."""
        _take(self.map, *METHODS["ridge"](stats.to_teacher))


class Mlp(Projector):
    """A linear map, and beside it a hidden layer that begins at nothing.

    Source:
        W2 relu(W1 x), as recipes for distillation have it. Departure: added to a linear
        map that is calibrated, so that it begins no worse than that.
    """

    def __init__(
        self, student: int, teacher: int, layers: int, *, hidden: AtLeastOne = 256
    ) -> None:
        """Build the three maps.

        Args:
            student: C_s.
            teacher: C_t.
            layers: L.
            hidden: width of the hidden layer.
        """
        super().__init__()
        self.map = _rotation(student, teacher, layers)
        self.inner = _rotation(student, hidden, layers)
        self.outer = LayerwiseLinear(layers, hidden, teacher)  # begins at 0

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`Projector.forward`."""
        return torch.as_tensor(self.map(x) + self.outer(self.inner(x).relu()))

    def fit(self, stats: PairStats) -> None:
        """See :meth:`Projector.fit`."""
        _take(self.map, *METHODS["ridge"](stats.to_teacher))


class Orthogonal(Projector):
    """A rotation of each layer, times one learned scale: it can hide nothing.

    Stays orthogonal while it learns. Between unlike widths, rows or columns (the
    shorter ones' number of them) are orthonormal.

    Source:
        Schonemann 1966, orthogonal Procrustes, for the start; Lezcano-Casado 2019
        (arXiv 1909.09501) for the training, as torch has it.
    """

    weight: Tensor
    ignores_rotation = True

    def __init__(self, student: int, teacher: int, layers: int) -> None:
        """Begin with some rotation."""
        super().__init__()
        rotation = _rotation(student, teacher, layers).weight
        self.weight = nn.Parameter(rotation.detach().clone())
        if not rotation.is_meta:  # where nothing is made, it is as many numbers
            # Its signs are whole numbers that get no gradient: weight decay would turn
            # them to 0, which terms' parameters have none of. Without trivialization
            # nothing is drawn, and any rotation can be taken.
            parametrizations.orthogonal(
                self, "weight", "householder", use_trivialization=False
            )
        self.scale = nn.Parameter(torch.ones(layers))
        self.bias = nn.Parameter(torch.zeros(layers, teacher))

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`Projector.forward`."""
        with without_autocast(x):  # or it is none in bfloat16
            rotation = self.weight * self.scale[:, None, None]
        whole = torch.cat([rotation, self.bias[:, None]], 1)
        return mapped(whole, x)

    def fit(self, stats: PairStats) -> None:
        """See :meth:`Projector.fit`."""
        pairs = stats.to_teacher
        left, sizes, right = torch.linalg.svd(pairs.cov_xy, full_matrices=False)
        rotation = left @ right
        # in the directions that are kept: all of them where the teacher is wider
        variance = (rotation * (pairs.cov_x @ rotation)).sum((1, 2))
        scale = sizes.sum(1) / torch.where(variance > 0, variance, 1.0)
        scale = torch.where(scale > 0, scale, 1.0)
        bias = pairs.mean_y - scale[:, None] * (pairs.mean_x[:, None] @ rotation)[:, 0]
        with torch.no_grad():
            self.weight = rotation.to(self.scale.dtype)
            self.scale.copy_(scale)
            self.bias.copy_(bias)


class Pca(Projector):
    """Compare within the teacher's leading principal directions, by a linear map.

    What the teacher says beyond them is left out. The variances of what is kept stay in
    their ratios, of mean 1, as a squared distance of standardised features has it.

    Source:
        Pearson 1901, on the covariance of the teacher's features; the map into the
        directions is ridge regression, as of ``linear``.
    """

    mean: Tensor
    directions: Tensor

    def __init__(
        self, student: int, teacher: int, layers: int, *, rank: AtLeastOne = 16
    ) -> None:
        """Begin with the teacher's first channels.

        Args:
            student: C_s.
            teacher: C_t.
            layers: L.
            rank: how many directions are kept.

        Raises:
            InputError: the teacher has fewer channels.
        """
        super().__init__()
        if rank > teacher:
            raise InputError(
                f"projector pca keeps rank={rank} directions of a teacher that is "
                f"{teacher} wide; give a rank of at most {teacher}"
            )
        self.map = _rotation(student, rank, layers)
        self.register_buffer("mean", torch.zeros(layers, teacher))
        first = torch.eye(teacher, rank).expand(layers, -1, -1)
        self.register_buffer("directions", first.clone())

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`Projector.forward`."""
        return torch.as_tensor(self.map(x))

    def target(self, y: Tensor) -> Tensor:
        """See :meth:`Projector.target`."""
        centred = y - self.mean[:, None, None].to(y.dtype)
        return centred @ self.directions[:, None].to(y.dtype)

    def fit(self, stats: PairStats) -> None:
        """See :meth:`Projector.fit`."""
        teacher = stats.to_student
        values, vectors = torch.linalg.eigh(teacher.cov_x)  # ascending
        rank = self.directions.shape[2]
        vectors = vectors.flip(2)[:, :, :rank]
        mean = values.flip(1)[:, :rank].mean(1).clamp_min(1e-9)
        vectors = vectors / mean.sqrt()[:, None, None]
        largest = vectors.abs().argmax(1, keepdim=True)
        vectors = vectors * vectors.gather(1, largest).sign()  # they have no sign
        weight, bias = METHODS["ridge"](stats.to_teacher)
        shift = ((bias - teacher.mean_x)[:, None] @ vectors)[:, 0]
        _take(self.map, weight @ vectors, shift)
        self.mean.copy_(teacher.mean_x)
        self.directions.copy_(vectors)


def fit_projectors(
    projectors: Mapping[str, nn.Module], pairs: Iterable[tuple[str, Tensor, Tensor]]
) -> None:
    """Fit those that can be.

    Args:
        projectors: by teacher.
        pairs: a teacher's name, the student's features (L, N, C_s) and the teacher's
            (L, N, C_t).
    """
    stats: dict[str, PairStats] = {}
    for name, x, y in pairs:
        if name not in stats:
            stats[name] = _no_pairs(x, y)
        stats[name].to_teacher.update(x, y)
        stats[name].to_student.update(y, x)
    for name, projector in projectors.items():
        fit: Any = getattr(projector, "fit", None)
        if fit and name in stats and stats[name].to_teacher.n:
            fit(stats[name])


def _no_pairs(x: Tensor, y: Tensor) -> PairStats:
    """Of features (L, N, C) of student and teacher."""
    (layers, _, student), teacher, device = x.shape, y.shape[2], str(x.device)
    return PairStats(
        CalibrationStats(layers, teacher, student, device),
        CalibrationStats(layers, student, teacher, device),
    )


def _rotation(student: int, teacher: int, layers: int) -> LayerwiseLinear:
    """Random orthonormal rows or columns, alike wherever they are made."""
    made = LayerwiseLinear(layers, student, teacher)
    if not made.weight.is_meta:  # else it is only counted
        generator = torch.Generator().manual_seed(0)
        for weight in made.weight:
            nn.init.orthogonal_(weight, generator=generator)
    return made


def _take(linear: LayerwiseLinear, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)


PROJECTORS: dict[str, Any] = {
    "linear": Linear,
    "mlp": Mlp,
    "orthogonal": Orthogonal,
    "pca": Pca,
}
"""Built-in projectors, by name."""
