"""Statistics of paired features, gathered in one pass and constant memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

STD_FLOOR = 1e-6
"""Smallest standard deviation of a channel, relative to its layer's typical one."""
CONSTANT = 1e-6
"""Standard deviation of a channel that does not vary, relative to its mean: what
float32 rounds by."""


class CalibrationStats:
    """Running means and covariances of teacher (x) and student (y) features.

    Sums are float64 around the first batch's mean, so large offsets lose nothing.
    """

    def __init__(
        self, num_layers: int, dim_x: int, dim_y: int, device: str = "cpu"
    ) -> None:
        """Start empty.

        Args:
            num_layers: L.
            dim_x: the teacher's width, C_x.
            dim_y: the student's width, C_y.
            device: where the sums are kept.
        """
        if min(num_layers, dim_x, dim_y) < 1:
            raise ValueError(
                f"CalibrationStats({num_layers}, {dim_x}, {dim_y}): layers and "
                "widths are at least 1"
            )
        self.num_layers, self.dim_x, self.dim_y = num_layers, dim_x, dim_y
        self.n = 0
        """Pairs seen so far."""

        def zeros(*size: int) -> Tensor:
            return torch.zeros(num_layers, *size, dtype=torch.float64, device=device)

        self._shift_x = zeros(dim_x)
        self._shift_y = zeros(dim_y)
        self._sum_x = zeros(dim_x)
        self._sum_y = zeros(dim_y)
        self._xx = zeros(dim_x, dim_x)
        self._xy = zeros(dim_x, dim_y)
        self._yy = zeros(dim_y)

    @torch.no_grad()
    def update(
        self, x: Tensor, y: Tensor, mirrored: CalibrationStats | None = None
    ) -> None:
        """Add N pairs.

        Args:
            x: (L, N, C_x) float, teacher features already on the student's tokens;
                leave out uncovered and sink tokens.
            y: (L, N, C_y) float, student features of the same tokens.
            mirrored: statistics of all the same pairs, y before x, which take these up
                as well: their products are the same, turned.

        Raises:
            ValueError: the shapes do not match, or a value is not finite.
        """
        pairs = x.shape[1] if x.dim() == 3 else -1
        for name, value, width in (("x", x, self.dim_x), ("y", y, self.dim_y)):
            if tuple(value.shape) != (self.num_layers, pairs, width):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; give ({self.num_layers}, "
                    f"N, {width}), the same N for x and y"
                )
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"{name} holds values that are not finite; leave out padded and "
                    "uncovered tokens, or capture in a wider dtype"
                )
        if not pairs:
            return
        x = x.to(self._xx)
        y = y.to(self._xx)
        if not self.n:
            self._shift_x, self._shift_y = x.mean(1), y.mean(1)
        x = x - self._shift_x[:, None]
        y = y - self._shift_y[:, None]
        xy = x.mT @ y
        self._add(x, y, xy)
        if mirrored is None:
            return
        mirrored._shift_x, mirrored._shift_y = self._shift_y, self._shift_x
        mirrored._add(y, x, xy.mT)
        assert mirrored.n == self.n, "both take up every pair"

    def _add(self, x: Tensor, y: Tensor, xy: Tensor) -> None:
        """Add shifted pairs, float64, with their product (L, C_x, C_y)."""
        self.n += x.shape[1]
        self._sum_x += x.sum(1)
        self._sum_y += y.sum(1)
        self._xx += x.mT @ x
        self._xy += xy
        self._yy += y.square().sum(1)

    @property
    def mean_x(self) -> Tensor:
        """(L, C_x) float64."""
        return self._shift_x + self._sum_x / self._count()

    @property
    def mean_y(self) -> Tensor:
        """(L, C_y) float64."""
        return self._shift_y + self._sum_y / self._count()

    @property
    def cov_x(self) -> Tensor:
        """(L, C_x, C_x) float64, divided by n."""
        mean = self._sum_x / self._count()
        return self._xx / self._count() - mean[:, :, None] * mean[:, None]

    @property
    def cov_xy(self) -> Tensor:
        """(L, C_x, C_y) float64, divided by n."""
        mean_x, mean_y = self._sum_x / self._count(), self._sum_y / self._count()
        return self._xy / self._count() - mean_x[:, :, None] * mean_y[:, None]

    @property
    def var_y(self) -> Tensor:
        """(L, C_y) float64, divided by n."""
        return (self._yy / self._count() - (self._sum_y / self._count()) ** 2).clamp(0)

    @property
    def constant_x(self) -> Tensor:
        """(L,) bool: no channel of the teacher varies by more than rounding."""
        spread = self.cov_x.diagonal(dim1=1, dim2=2).clamp(0).sqrt()
        return (self.n > 1) & (spread <= CONSTANT * self.mean_x.abs()).all(1)

    @property
    def std_x(self) -> Tensor:
        """(L, C_x) float64, never below the floor: dividing by it is safe."""
        variance = self.cov_x.diagonal(dim1=1, dim2=2)
        return _floored(variance.clamp(0).sqrt(), self._shift_x)

    @property
    def std_y(self) -> Tensor:
        """(L, C_y) float64, never below the floor: dividing by it is safe."""
        return _floored(self.var_y.sqrt(), self._shift_y)

    def _count(self) -> int:
        if not self.n:
            raise ValueError(
                "no calibration pairs yet; call update() with covered tokens first"
            )
        return self.n


def calibrate_pca(
    stats: CalibrationStats, whiten: bool = True
) -> tuple[Tensor, Tensor]:
    """Map the teacher's principal directions onto the student's channels.

    Teacher channels are standardised, so that no loud channel decides; the leading
    C_y principal components, each of unit variance, take the student's mean and
    standard deviation, channel by channel. Components without variance, and student
    channels beyond the teacher's width, become the student's mean.

    Args:
        stats: paired features.
        whiten: False leaves the components' variances in their ratios to each other,
            of mean 1: strong directions stay strong, noise stays small.

    Returns:
        weight (L, C_x, C_y) and bias (L, C_y), float64: ``x @ weight + bias``.

    Source:
        Pearson (1901), on the correlation matrix.
    """
    return _into_student(stats, _components(stats, whiten))


def calibrate_procrustes(
    stats: CalibrationStats, whiten: bool = True
) -> tuple[Tensor, Tensor]:
    """:func:`calibrate_pca`, then the rotation nearest to the student's features.

    Args:
        stats: paired features.
        whiten: as for :func:`calibrate_pca`; without, this is a rotation and one
            scale of the standardised teacher's leading components.

    Returns:
        weight (L, C_x, C_y) and bias (L, C_y), float64.

    Source:
        Schonemann (1966), between the teacher's components and the standardised
        student.
    """
    components = _components(stats, whiten)
    paired = components.transpose(1, 2) @ stats.cov_xy / stats.std_y[:, None]
    rotation_left, _, rotation_right = torch.linalg.svd(paired, full_matrices=False)
    return _into_student(stats, components @ (rotation_left @ rotation_right))


def calibrate_ridge(
    stats: CalibrationStats, strength: float = 1e-2
) -> tuple[Tensor, Tensor]:
    """Predict the student's features linearly from the teacher's.

    Args:
        stats: paired features.
        strength: penalty relative to the unit variance of standardised teacher
            channels, > 0.

    Returns:
        weight (L, C_x, C_y) and bias (L, C_y), float64.

    Source:
        Hoerl and Kennard (1970): (corr_x + strength I)^-1 cov_xy, that is
        ``sklearn.linear_model.Ridge(alpha=n * strength)`` on standardised x.
    """
    if strength <= 0:
        raise ValueError(f"ridge strength must be > 0, got {strength}")
    scale = stats.std_x
    corr = stats.cov_x / (scale[:, :, None] * scale[:, None])
    penalty = strength * torch.eye(stats.dim_x, dtype=corr.dtype, device=corr.device)
    solution = torch.linalg.solve(corr + penalty, stats.cov_xy / scale[:, :, None])
    weight = solution / scale[:, :, None]
    return weight, _bias(stats, weight)


Method = Callable[[CalibrationStats], tuple[Tensor, Tensor]]
"""Statistics -> weight (L, C_x, C_y) and bias (L, C_y)."""

METHODS: dict[str, Method] = {
    "pca": calibrate_pca,
    "procrustes": calibrate_procrustes,
    "ridge": calibrate_ridge,
    "pca-unwhitened": partial(calibrate_pca, whiten=False),
    "procrustes-unwhitened": partial(calibrate_procrustes, whiten=False),
}
"""Built-in calibration methods by name."""


def variance_kept(stats: CalibrationStats, weight: Tensor) -> Tensor:
    """Share of the teacher's variance that can be read back from ``x @ weight``.

    Args:
        stats: paired features.
        weight: (L, C_x, C_y).

    Returns:
        (L,) float64 in [0, 1], over standardised channels.
    """
    scale = stats.std_x
    # z = standardised x and c = z W, so cov(z, c) = R W and cov(c) = W^T R W: the best
    # linear guess of z from c explains tr(R W (W^T R W)^+ W^T R) of tr(R).
    corr = stats.cov_x / (scale[:, :, None] * scale[:, None])
    inner = weight.to(corr) * scale[:, :, None]
    size = inner.norm(dim=1, keepdim=True)
    inner = inner / torch.where(size > 0, size, torch.ones_like(size))
    read_out = corr @ inner
    gram = torch.linalg.pinv(
        inner.transpose(1, 2) @ read_out, rtol=1e-9, hermitian=True
    )
    read_back = (read_out @ gram * read_out).sum((1, 2))
    total = corr.diagonal(dim1=1, dim2=2).sum(1)
    safe = torch.where(total > 0, total, torch.ones_like(total))
    return (read_back / safe).clamp(0, 1)


def r_squared(stats: CalibrationStats, weight: Tensor, bias: Tensor) -> Tensor:
    """How well ``x @ weight + bias`` predicts the student's features.

    Args:
        stats: paired features.
        weight: (L, C_x, C_y).
        bias: (L, C_y).

    Returns:
        (L,) float64, at most 1, averaged over channels that vary; 0 is no better than
        the student's mean and negative is worse.
    """
    weight, bias = weight.to(stats.cov_x), bias.to(stats.cov_x)
    off = (stats.mean_x[:, None] @ weight)[:, 0] + bias - stats.mean_y
    spread = (weight * (stats.cov_x @ weight)).sum(1)
    shared = (weight * stats.cov_xy).sum(1)
    error = stats.var_y - 2 * shared + spread + off**2
    varies = stats.var_y > (STD_FLOOR * stats.std_y.mean(1, keepdim=True)) ** 2
    score = torch.where(varies, 1 - error / stats.std_y**2, torch.zeros_like(error))
    return score.sum(1) / varies.sum(1).clamp(min=1)


def _components(stats: CalibrationStats, whiten: bool) -> Tensor:
    """(L, C_x, C_y): centred x to components of (mean) variance 1, 0 where none is."""
    scale = stats.std_x
    corr = stats.cov_x / (scale[:, :, None] * scale[:, None])
    values, vectors = torch.linalg.eigh(corr)
    count = min(stats.dim_x, stats.dim_y)
    values = values.flip(1)[:, :count]
    vectors = vectors.flip(2)[:, :, :count]
    largest = vectors.abs().argmax(1, keepdim=True)
    vectors = vectors * vectors.gather(1, largest).sign()  # eigenvectors have no sign
    real = values > 1e-9 * values[:, :1].clamp(min=1e-9)
    if not whiten:
        mean = torch.where(real, values, 0.0).sum(1, keepdim=True)
        values = (mean / real.sum(1, keepdim=True).clamp(min=1)).expand_as(values)
    inverse = torch.where(real, values.clamp(min=1e-300).rsqrt(), 0.0)
    components = vectors * inverse[:, None] / scale[:, :, None]
    return torch.nn.functional.pad(components, (0, stats.dim_y - count))


def _into_student(stats: CalibrationStats, components: Tensor) -> tuple[Tensor, Tensor]:
    weight = components * stats.std_y[:, None]
    return weight, _bias(stats, weight)


def _bias(stats: CalibrationStats, weight: Tensor) -> Tensor:
    return stats.mean_y - (stats.mean_x[:, None] @ weight)[:, 0]


def _floored(std: Tensor, mean: Tensor) -> Tensor:
    """Raise constant channels to a floor; a layer constant throughout gets 1."""
    typical = std.mean(1, keepdim=True)
    rounding = 1e-12 * mean.abs().amax(1, keepdim=True)
    varies = typical > rounding
    floor = torch.where(varies, STD_FLOOR * typical, torch.ones_like(typical))
    return torch.maximum(std, floor)
