"""What is known of texts before any teacher has read them, and routers that go by it.

A router with ``before_reading = True`` has a method ``beforehand``, which maps
:class:`Texts` to the weights (B, M) that it will give, in whatever way its ``forward``
is asked later. So a hard choice can be made first, and who is not chosen need not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Texts:
    """What is known of B texts before M teachers read them."""

    teachers: Sequence[str]
    """M names, in the order of the weights."""
    domains: Sequence[str]
    """(B,) names."""
    ranks: Tensor | None = None
    """(B,) float64 in [0, 1]: how hard each text is among all that are learned from,
    the share of them that are easier, ties half; None where the router asks for no
    ``difficulty``."""
    costs: Tensor | None = None
    """(M,) float64 > 0, of running each teacher, in parameters; NaN where a store tells
    nothing of it; None where the router does not ask."""


class BeforeReading(Protocol):
    """A router that need not wait for what a model says."""

    before_reading: bool
    """True."""

    def beforehand(self, texts: Texts) -> Tensor:
        """(B, M) float32 >= 0, each text's weights, summing to 1 over M."""


def decides_before_reading(router: Any) -> bool:
    """Whether a router, or what makes it, knows its weights before teachers read."""
    return bool(getattr(router, "before_reading", False))


def difficulty_needed(router: Any) -> str | None:
    """The score by which a router has texts ranked, ``length`` or one of those that a
    phase's texts are scored by; None: it goes by none."""
    score: str | None = getattr(router, "difficulty", None)
    return score
