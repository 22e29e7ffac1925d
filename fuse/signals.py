"""What a router may be told beside the student's hidden state, and how it asks."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.errors import InputError

FORETOLD = "foretold"
"""How likely each teacher found the text, as something that a router needs."""
DOMAIN = "domain"
"""What kind of text each is, as such."""
SIGNALS = frozenset({FORETOLD, DOMAIN})
"""All that a router may say it needs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Signals:
    """What is known of B texts of T student tokens and of M teachers, all detached.

    Whatever is in a place (b, t) follows from text that token t ends or that lies
    before it. A router may let its weights at token t depend on places before t alone:
    the weight there also says how much a teacher's prediction *of* token t counts.
    """

    teachers: Sequence[str]
    """M names, in the order of the weights."""
    foretold: Tensor | None = None
    """(B, T, M) float32, nats: the log-likelihood that each teacher gave to the stretch
    of text which this token ends; 0 where none ends, NaN at all ends of a teacher that
    predicts nothing. Stretches begin and end with whole tokens of the student and of
    all teachers that predict."""
    ends: Tensor | None = None
    """(B, T) bool, whether a stretch ends with this token."""
    domains: Sequence[str] | None = None
    """(B,) names; None where nobody knows them."""


def signals_needed(router: Any) -> frozenset[str]:
    """What a router, or what makes it, says it needs; most say nothing.

    Raises:
        InputError: it needs what nobody can give it.
    """
    needs: Any = getattr(router, "needs", frozenset())
    if not isinstance(needs, Set) or not needs <= SIGNALS:
        raise InputError(
            f"router {getattr(router, '__name__', router)!r} needs {needs!r}; give a "
            f"frozenset of any of {', '.join(sorted(SIGNALS))}"
        )
    return frozenset(needs)
