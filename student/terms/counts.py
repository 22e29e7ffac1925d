"""What the places of the terms on next-token outputs weigh before the student reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from student.places import Places


def same_next(places: Places) -> list[float]:
    """Of ``kd``: what the places weigh, and the student's next tokens."""
    weights = [taught.pairing.same_next(taught.weight) for taught in places.heard("kd")]
    return [_sum(weights), places.labelled]


def hybrid(places: Places) -> list[float]:
    """Of ``hybrid_ot``: the transport's places, and those of what stands beside it."""
    moved, apart = [], []
    for taught in places.heard("hybrid_ot"):
        if taught.alike:
            weight = taught.pairing.same_next(taught.weight)
            moved.append(weight)
        else:
            weight = taught.pairing.stretches(taught.weight)
            moved.append(weight[taught.pairing.places(weight)[0]])
        apart.append(weight)
    return [_sum(moved), _sum(apart)]


def texts(places: Places) -> list[float]:
    """Of ``sequence_ot``."""
    heard = places.heard("sequence_ot")
    return [_sum([taught.pairing.by_text(taught.weight) for taught in heard])]


def stretches(places: Places) -> list[float]:
    """Of ``likelihood``."""
    blanks = places.plan is not None and places.plan.config.likelihood_ends == "blanks"
    heard = places.heard("likelihood")
    return [_sum([taught.pairing.stretches(taught.weight, blanks) for taught in heard])]


def pieces(places: Places) -> list[float]:
    """Of ``projected_kl``."""
    weights = []
    for taught in places.heard("projected_kl"):
        weight = taught.pairing.stretches(taught.weight)
        weights.append(weight[taught.pairing.places(weight)[0]])
    return [_sum(weights)]


def _sum(weights: Sequence[Tensor]) -> float:
    return sum(float(weight.double().sum()) for weight in weights)
