"""Do no harm: a phase is kept only if its student did not get worse by it.

A phase's student is held against the CE-only student after the same phase and against
the student before the phase, domain by domain. What is rolled back is rolled back in
every arm, so that arms go on comparing students of the same data and steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.config.sections import GateConfig

Bpc = Mapping[str, float]
"""Bits per character by domain."""

REFERENCES = {"ce_only": "CE only", "before": "before the phase"}
"""What a phase's student is compared with, and how sentences call it."""


@dataclass(frozen=True, slots=True)
class Harm:
    """One domain in which a phase's student needs too many bits."""

    domain: str
    against: str
    """A key of ``REFERENCES``."""
    bpc: float
    """Bits per character of the phase's student."""
    reference: float
    """Of the student it is compared with."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate made of one phase."""

    harms: tuple[Harm, ...]
    rolled_back: bool
    own_text: bool
    """Whether it was decided on text that nothing else is measured on."""

    def plain(self) -> dict[str, Any]:
        """As the summary and the metrics hold it."""
        return {**asdict(self), "harms": [asdict(harm) for harm in self.harms]}


def judge(
    phase_bpc: Bpc,
    references: Mapping[str, Bpc | None],
    gate: GateConfig,
    own_text: bool,
) -> Judgement:
    """Compare a phase's student with its references; see ``gate.tolerance``.

    Args:
        phase_bpc: of the phase's student.
        references: by keys of ``REFERENCES``; None where there is none.
        gate: the ``gate`` section.
        own_text: see :class:`Judgement`.
    """
    harms = tuple(
        Harm(domain, against, bits, reference[domain])
        for against, reference in references.items()
        if reference is not None
        for domain, bits in phase_bpc.items()
        # Not finite is worse than anything.
        if not bits <= (1 + gate.tolerance) * reference[domain]
    )
    return Judgement(harms, bool(harms) and gate.action == "rollback", own_text)


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
    harms = sorted(
        judgement["harms"], key=lambda h: h["reference"] / h["bpc"] if h["bpc"] else 1
    )
    return "; ".join(
        f"{harm['domain']} {harm['bpc']:.3f}, "
        f"{harm['bpc'] / harm['reference'] - 1:.1%} more than "
        f"{REFERENCES[harm['against']]} ({harm['reference']:.3f})"
        for harm in harms
    )
