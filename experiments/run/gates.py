"""Do no harm: a phase is kept only if its student did not get worse by it.

A phase's student is held against the CE-only student after the same phase and against
the student before the phase, domain by domain. What is rolled back is rolled back in
every arm, so that arms go on comparing students of the same data and steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.config.measuring import GateConfig
from experiments.evaluators.chosen import USUAL

Parts = Mapping[str, float]
"""One metric's numbers by part, such as bits per character by domain."""

REFERENCES = {"ce_only": "CE only", "before": "before the phase"}
"""What a phase's student is compared with, and how sentences call it."""


@dataclass(frozen=True, slots=True)
class Harm:
    """One domain, or part, in which a phase's student is too bad."""

    domain: str
    against: str
    """A key of ``REFERENCES``."""
    value: float
    """The metric of the phase's student."""
    reference: float
    """Of the student it is compared with."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate made of one phase."""

    harms: tuple[Harm, ...]
    rolled_back: bool
    own_text: bool
    """Whether it was decided on text that nothing else is measured on."""
    metric: str = USUAL
    """By which it was decided."""

    def plain(self) -> dict[str, Any]:
        """As the summary and the metrics hold it."""
        return {**asdict(self), "harms": [asdict(harm) for harm in self.harms]}


def judge(
    phase: Parts,
    references: Mapping[str, Parts | None],
    gate: GateConfig,
    own_text: bool,
    lower: bool = True,
) -> Judgement:
    """Compare a phase's student with its references; see ``gate.tolerance``.

    Args:
        phase: of the phase's student.
        references: by keys of ``REFERENCES``; None where there is none.
        gate: the ``gate`` section.
        own_text: see :class:`Judgement`.
        lower: whether lower is better by the metric.
    """
    sign = 1 if lower else -1
    harms = tuple(
        Harm(domain, against, value, reference[domain])
        for against, reference in references.items()
        if reference is not None
        for domain, value in phase.items()
        if domain in reference
        # Not finite is worse than anything.
        if not sign * value
        <= sign * reference[domain] + gate.tolerance * abs(reference[domain])
    )
    back = bool(harms) and gate.action == "rollback"
    return Judgement(harms, back, own_text, gate.metric)


def kept_before(judged: Sequence[Judgement]) -> int | None:
    """The phase, counted from 0, whose student the next one starts from.

    Args:
        judged: the phases so far.

    Returns:
        None where no phase was kept: the student as it was at first.
    """
    kept = [i for i, judgement in enumerate(judged) if not judgement.rolled_back]
    return kept[-1] if kept else None


def describe_harm(judgement: Mapping[str, Any]) -> str:
    """Say what was harmed, worst first; empty if nothing was.

    Args:
        judgement: as :meth:`Judgement.plain` gives it.
    """
    metric = judgement.get("metric", USUAL)
    said = "" if metric == USUAL else f" of {metric}"
    harms = sorted(judgement["harms"], key=_share)
    return "; ".join(
        f"{harm['domain']} {_value(harm):.3f}, {_apart(harm)}{said} than "
        f"{REFERENCES[harm['against']]} ({harm['reference']:.3f})"
        for harm in harms
    )


def _value(harm: Mapping[str, Any]) -> float:
    """Runs of earlier versions called it by the one metric there was."""
    return float(harm["value"] if "value" in harm else harm["bpc"])


def _share(harm: Mapping[str, Any]) -> float:
    """How much of the larger number the smaller one is: 1 where they are the same."""
    pair = abs(_value(harm)), abs(harm["reference"])
    return min(pair) / max(pair) if max(pair) else 1.0


def _apart(harm: Mapping[str, Any]) -> str:
    value, reference = _value(harm), harm["reference"]
    if not reference:
        return "more" if value > 0 else "less"
    share = value / reference - 1
    return f"{share:.1%} more" if share >= 0 else f"{-share:.1%} less"
