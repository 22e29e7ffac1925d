"""What the places of the terms on next-token outputs weigh before the student reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from student.places import Places


def same_next(places: Places) -> list[float]:
    """Of ``kd``: what the places weigh, and the student's next tokens."""
    weights = [one.pairing.same_next(one.weight) for one in places.heard("kd")]
    return [_sum(weights), places.predicted]


def hybrid(places: Places) -> list[float]:
    """Of ``hybrid_ot``: the transport's places, and those of what stands beside it."""
    moved, apart = [], []
    for one in places.heard("hybrid_ot"):
        if one.alike:
            weight = one.pairing.same_next(one.weight)
            moved.append(weight)
        else:
            weight = one.pairing.stretches(one.weight)
            moved.append(weight[one.pairing.places(weight)[0]])
        apart.append(weight)
    return [_sum(moved), _sum(apart)]


def texts(places: Places) -> list[float]:
    """Of ``sequence_ot``."""
    heard = places.heard("sequence_ot")
    return [_sum([one.pairing.by_text(one.weight) for one in heard])]


def stretches(places: Places) -> list[float]:
    """Of ``likelihood``."""
    blanks = places.plan is not None and places.plan.config.likelihood_ends == "blanks"
    heard = places.heard("likelihood")
    return [_sum([one.pairing.stretches(one.weight, blanks) for one in heard])]


def pieces(places: Places) -> list[float]:
    """Of ``projected_kl``."""
    weights = []
    for one in places.heard("projected_kl"):
        weight = one.pairing.stretches(one.weight)
        weights.append(weight[one.pairing.places(weight)[0]])
    return [_sum(weights)]


def _sum(weights: Sequence[Tensor]) -> float:
    return sum(float(weight.double().sum()) for weight in weights)
