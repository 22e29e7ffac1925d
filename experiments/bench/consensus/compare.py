"""Layer by layer: what teachers agree on, and who tells most of the next token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.calibration import CalibrationStats
from experiments.bench.consensus.features import Features
from experiments.bench.consensus.gcca import (
    agreement,
    fit_consensus,
    principal,
    private,
)
from experiments.bench.consensus.probe import (
    Split,
    classes_of,
    probe_bits,
    told_by_token,
)

AGREES = 0.5
"""Held-out correlation above which a direction counts as shared."""
ENOUGH = 10
"""Shared directions that a layer must have."""
SHARED = "shared"
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """What was measured of the keys, or the values, of one of the student's layers."""

    side: str
    layer: int
    agreement: tuple[float, ...]
    """Held-out, of each direction."""
    dims: int
    """Directions that are probed, of shared and private parts and components alike."""
    bits: Mapping[str, float]
    """Held-out, of the next token, by what is read: ``shared``, and of each teacher
    ``guesses``, ``private``, ``components`` and ``whole``, as in ``private NAME``."""
    token: Mapping[str, float]
    """Share of held-out variance that the token itself tells, of ``shared`` and of each
    teacher's ``private``."""

    @property
    def agreeing(self) -> int:
        """Directions on which teachers agree on held-out text."""
        return sum(value > AGREES for value in self.agreement)

    def least(self, kind: str) -> float:
        """The fewest bits of any teacher by ``private``, ``components``, ``whole``."""
        return min(v for name, v in self.bits.items() if name.split()[0] == kind)


def sums_of(features: Tensor) -> CalibrationStats:
    """Means and covariances of (L, N, C) features, a chunk of tokens at a time."""
    layers, _, width = features.shape
    stats = CalibrationStats(layers, width, 1)
    for part in features.split(_CHUNK, 1):
        stats.update(part, part[:, :, :1])
    return stats


def dims_of(agreeing: int, widths: Sequence[int], most: int | None) -> int:
    """How many directions are probed: those that are shared, but no more than leave
    every teacher as many that are private, and no fewer than are asked for."""
    fair = min(widths) // 2
    return max(1, min(max(agreeing, ENOUGH), fair, most or fair))


def measure(
    sets: Sequence[Features],
    widths: Mapping[str, Sequence[int]],
    names: Sequence[str],
    *,
    classes: int,
    most: int | None = None,
) -> Iterator[Layer]:
    """Fit on the first set and measure on the last, layer by layer.

    Args:
        sets: three, of texts apart: to fit, to choose a penalty, and held out.
        widths: of each teacher, by side.
        names: the teachers'.
        classes: of next tokens.
        most: directions to probe at most.
    """
    following = classes_of([each.following for each in sets], classes)
    for side in widths:
        fit, held = sums_of(sets[0].sides[side]), sums_of(sets[2].sides[side])
        consensus = fit_consensus(fit, widths[side])
        agreements = agreement(consensus, held)
        whole = principal(fit, widths[side])
        for layer, agreed in enumerate(agreements):
            count = int((agreed > AGREES).sum())
            dims = dims_of(count, widths[side], most)
            maps = _maps(
                names,
                widths[side],
                guesses=[part[layer, :, :dims] for part in consensus.parts],
                private=[
                    each[layer, :, :dims] for each in private(consensus, fit, dims)
                ],
                components=[each[layer, :, :dims] for each in whole],
                whole=[each[layer] for each in whole],
            )
            maps = {SHARED: consensus.weight[layer, :, :dims], **maps}
            made = {
                name: [each.sides[side][layer].double() @ m for each in sets]
                for name, m in maps.items()
            }
            yield Layer(
                side=side,
                layer=layer,
                agreement=tuple(agreed.tolist()),
                dims=dims,
                bits={
                    name: probe_bits(
                        Split(features=x, classes=following, count=classes)
                    )
                    for name, x in made.items()
                },
                token={
                    name: told_by_token(x[0], sets[0].tokens, x[2], sets[2].tokens)
                    for name, x in made.items()
                    if name.split()[0] in (SHARED, "private")
                },
            )


def _maps(
    names: Sequence[str], widths: Sequence[int], **kinds: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Each teacher's own maps (C_m, D) as maps (C, D) of all channels, by kind."""
    starts = torch.tensor([0, *widths]).cumsum(0).tolist()
    total = starts[-1]
    maps = {}
    for kind, parts in kinds.items():
        for name, part, start in zip(names, parts, starts, strict=False):
            whole = part.new_zeros(total, part.shape[1])
            whole[start : start + len(part)] = part
            maps[f"{kind} {name}"] = whole
    return maps
