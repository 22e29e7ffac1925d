"""What routers and others may be told of texts and teachers, and how they ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.errors import InputError
from align.views import FORETOLD as FORETOLD

DOMAIN = "domain"
"""What kind of text each is, as something that is needed."""
LOG_PROB = "log_prob"
"""How likely each teacher finds what comes, as such."""
ENTROPY = "entropy"
"""How undecided each teacher is about it, as such."""
MAX_PROB = "max_prob"
"""The greatest probability that each teacher gives, as such."""
RIGHT = "right"
"""Whether what each teacher finds likeliest is what comes, as such."""
AGREEMENT = "agreement"
"""Whether teachers expect the same, as such."""
LOSS_SO_FAR = "loss_so_far"
"""How badly each teacher foretold what was read, as such."""
KV_FIT = "kv_fit"
"""How near the student's keys and values are to each teacher's, as such."""
COST = "cost"
"""What asking each teacher costs, as such."""
STUDENT_LOG_PROB = "student_log_prob"
"""How likely the student finds what comes, as such."""
STUDENT_ENTROPY = "student_entropy"
"""How undecided the student is about it, as such."""
STUDENT_MAX_PROB = "student_max_prob"
"""The greatest probability that the student gives, as such."""

OF_OUTPUTS = frozenset({LOG_PROB, ENTROPY, MAX_PROB, RIGHT, AGREEMENT})
"""Those that are worked out of teachers' next-token outputs."""
OF_FORETOLD = frozenset({FORETOLD, LOSS_SO_FAR})
"""Those that are worked out of how likely teachers found their own tokens."""
OF_STUDENT = frozenset({STUDENT_LOG_PROB, STUDENT_ENTROPY, STUDENT_MAX_PROB})
"""Those that are worked out of the student's next-token output."""
SIGNALS = OF_OUTPUTS | OF_FORETOLD | OF_STUDENT | {DOMAIN, KV_FIT, COST}
"""All that anybody may say it needs."""
LOOKS_AHEAD = frozenset({LOG_PROB, RIGHT, STUDENT_LOG_PROB, KV_FIT})
"""Those that at a place know text behind it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Signals:
    """What is known of B texts of T student tokens and of M teachers, all detached.

    Each is None unless somebody needs it, and NaN where nobody knows. Place (b, t) is
    that after the student's token t has been read, where token t + 1 is predicted; no
    signal but those of ``LOOKS_AHEAD`` knows text behind it. A router may let its
    weights at token t depend on places before t alone: the weight there also says how
    much a teacher's prediction *of* token t counts.
    """

    teachers: Sequence[str]
    """M names, in the order of the weights."""
    foretold: Tensor | None = None
    """(B, T, M) float32, nats: the log-likelihood that each teacher gave to the stretch
    of text which this token ends; 0 where none ends, NaN at all ends of a teacher that
    predicts nothing. Stretches begin and end with whole tokens of the student and of
    all teachers that predict."""
    ends: Tensor | None = None
    """(B, T) bool, whether a stretch ends with this token; there with ``foretold``."""
    domains: Sequence[str] | None = None
    """(B,) names; None where nobody knows them."""
    log_prob: Tensor | None = None
    """(B, T, M) float32, nats, looks ahead: the log-probability that each teacher gives
    to token t + 1. A teacher of another vocabulary gives it to the stretch of text
    which both spell with whole tokens; a token has its share of that by characters, so
    that sums over a text are right."""
    entropy: Tensor | None = None
    """(B, T, M) float32, nats: of each teacher's distribution over its own vocabulary,
    at the last of its tokens that has read no further than token t."""
    max_prob: Tensor | None = None
    """(B, T, M) float32 in (0, 1]: the greatest probability there."""
    right: Tensor | None = None
    """(B, T, M) float32, looks ahead: 1 where the token of its own that the teacher
    finds likeliest there is the one that comes, else 0."""
    agreement: Tensor | None = None
    """(B, T) float32 in [0, 1]: of the pairs of teachers with one vocabulary the share
    whose likeliest next token is the same; NaN where there is no such pair."""
    loss_so_far: Tensor | None = None
    """(B, T, M) float32, nats a character: what the stretches that ended by token t
    cost each teacher; NaN before the first and of a teacher that predicts nothing."""
    kv_fit: Tensor | None = None
    """(B, T, M) float32 in [-1, 1], looks ahead: mean cosine over layers, keys and
    values between the student's and each teacher's, where ``fuse.space`` compares them;
    NaN on tokens that a teacher does not cover. A teacher's token that overlaps one of
    the student's may have read on."""
    cost: Tensor | None = None
    """(M,) float32: the teacher's parameters, to which what a token costs is about
    proportional; NaN where nobody knows, as of a teacher in a store."""
    student_log_prob: Tensor | None = None
    """(B, T) float32, nats, looks ahead: what the student gives to token t + 1."""
    student_entropy: Tensor | None = None
    """(B, T) float32, nats, of the student's next-token distribution."""
    student_max_prob: Tensor | None = None
    """(B, T) float32 in (0, 1]: the greatest probability in it."""
    widths: Tensor | None = None
    """(B, T) float32, characters of each of the student's tokens; there with
    ``log_prob``."""


def check_signals(who: str, needs: Any) -> frozenset[str]:
    """See that somebody needs what there is.

    Args:
        who: begins the error: ``router 'x'``.
        needs: what it says.

    Returns:
        The same, frozen.

    Raises:
        InputError: it is no set of ``SIGNALS``.
    """
    if not isinstance(needs, Set):
        problem = repr(needs)
    elif needs <= SIGNALS:
        return frozenset(needs)
    else:
        problem = ", ".join(sorted(map(repr, needs - SIGNALS))) + ", which nobody gives"
    raise InputError(
        f"{who} needs {problem}; give a frozenset of any of "
        f"{', '.join(sorted(SIGNALS))}"
    )


def signals_needed(
    router: Any, options: Mapping[str, Any] | None = None
) -> frozenset[str]:
    """What a router, or what makes it, says it needs; most say nothing.

    Args:
        router: its ``needs`` is a set of ``SIGNALS``; where that depends on options,
            what makes it has a static method ``needs_with(**options)`` beside.
        options: those that it would be made with; None: what it says anyhow.

    Raises:
        InputError: it needs what nobody can give it, or what looks ahead, though its
            ``causal`` is not False.
    """
    who = f"router {getattr(router, '__name__', type(router).__name__)!r}"
    needs: Any = getattr(router, "needs", frozenset())
    depending = getattr(router, "needs_with", None)
    if options is not None and depending is not None:
        needs = depending(**options)
    known = check_signals(who, needs)
    ahead = known & LOOKS_AHEAD
    if ahead and getattr(router, "causal", True):
        raise InputError(
            f"{who} needs {', '.join(sorted(ahead))}, which at a place knows the text "
            "behind it, and is causal; choose a signal that does not "
            f"({', '.join(sorted(SIGNALS - LOOKS_AHEAD))}), or say causal = False"
        )
    return known
