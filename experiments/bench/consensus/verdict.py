"""Whether the measurements speak for a target that teachers share."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from experiments.bench.consensus.compare import AGREES, ENOUGH, SHARED, Layer


def objections(layers: Sequence[Layer], teachers: Sequence[str]) -> list[str]:
    """What speaks against it, by the two conditions that were set beforehand.

    Args:
        layers: of keys and values.
        teachers: their names.

    Returns:
        A sentence for each layer of fewer than :data:`ENOUGH` shared directions, and
        for each side of which some teacher's private part tells more of the next token
        than as many shared directions, on the mean over layers; empty: build it.
    """
    against = [
        f"{each.side} of layer {each.layer}: {each.agreeing} directions above "
        f"{AGREES:g} on held-out text, of {ENOUGH} that it takes"
        for each in layers
        if each.agreeing < ENOUGH
    ]
    for side in dict.fromkeys(each.side for each in layers):
        shared = mean_bits(layers, side, SHARED)
        bits = {name: mean_bits(layers, side, f"private {name}") for name in teachers}
        best = min(teachers, key=lambda name: bits[name])
        if bits[best] < shared:
            against.append(
                f"{side}: the private part of {best} leaves {bits[best]:.3f} bits of "
                f"the next token, the shared one {shared:.3f}"
            )
    return against


def mean_bits(layers: Sequence[Layer], side: str, name: str) -> float:
    """Of all layers of a side."""
    return statistics.mean(each.bits[name] for each in layers if each.side == side)
