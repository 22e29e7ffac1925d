"""The built-in selectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.schedules import ScheduledNotNegative, ScheduledShare, Setting
from align.schedules.setting import greatest, least
from fuse.signals import (
    ENTROPY,
    LOG_PROB,
    MAX_PROB,
    STUDENT_ENTROPY,
    STUDENT_LOG_PROB,
    STUDENT_MAX_PROB,
)
from student.select.candidates import Candidates, Selector
from student.select.threshold import Apart, Threshold, kept


class Uncertain(nn.Module):
    """Where a model hardly knows what comes, by the entropy of what it predicts.

    Keeps places at or above a line: a number of nats, a percentile of the last steps,
    or so many standard deviations above their mean; ``keep: below`` those at or below.
    A teacher's own entropy decides for that teacher; the student's for all.
    """

    def __init__(
        self,
        teachers: Sequence[str],
        domains: Sequence[str],
        *,
        of: Literal["teacher", "student"] = "teacher",
        threshold: ScheduledNotNegative | None = None,
        percentile: ScheduledNotNegative | None = None,
        deviations: float | None = None,
        apart: Apart = "none",
        keep: Literal["above", "below"] = "above",
    ) -> None:
        """Know nothing yet.

        Args:
            teachers: M names.
            domains: of all texts that are learned from.
            of: whose entropy.
            threshold: the line, nats.
            percentile: in [0, 100], of places; 50 where none of the three is given.
            deviations: above the mean.
            apart: whose percentiles and deviations are counted by themselves.
            keep: which side is learned from.

        Raises:
            InputError: the line cannot be drawn, or nothing lies on that side of it.
        """
        super().__init__()
        if threshold is percentile is deviations is None:
            percentile = 50.0
        if percentile is not None:
            _refuse_nothing(percentile, keep)
        self._of_teacher, self._above = of == "teacher", keep == "above"
        self.threshold = Threshold(
            teachers if self._of_teacher else (),
            domains,
            threshold=threshold,
            percentile=percentile,
            deviations=deviations,
            apart=apart,
        )
        of_whom = ENTROPY if self._of_teacher else STUDENT_ENTROPY
        self.needs = self.threshold.needs | {of_whom}

    def forward(self, candidates: Candidates) -> Tensor:
        """1 where it is kept, else 0."""
        entropy = self._entropy(candidates)
        return kept(
            entropy, self.threshold.line(candidates, entropy.shape), self._above
        )

    def note(self, candidates: Candidates) -> None:
        """Count a pass."""
        self.threshold.note(candidates, self._entropy(candidates))

    def _entropy(self, candidates: Candidates) -> Tensor:
        signals = candidates.signals
        entropy = signals.entropy if self._of_teacher else signals.student_entropy
        assert entropy is not None, "as needed"
        return entropy


class UnsureStudent(nn.Module):
    """More weight where the student is not sure.

    ``1 + alpha d`` where the student's greatest probability lies below ``gamma``, with
    d one minus that probability, or the student's entropy; 1 elsewhere.
    """

    def __init__(
        self,
        teachers: Sequence[str],
        domains: Sequence[str],
        *,
        alpha: ScheduledNotNegative = 1.0,
        gamma: ScheduledShare = 0.5,
        difficulty: Literal["doubt", "entropy"] = "doubt",
    ) -> None:
        """Take how much more, below what, and by what.

        Args:
            teachers: M names.
            domains: of all texts.
            alpha: what d is multiplied by.
            gamma: the probability below which the student is not sure.
            difficulty: ``doubt``, one minus the probability; ``entropy``, nats.
        """
        super().__init__()
        self._alpha, self._gamma = alpha, gamma
        self._entropy = difficulty == "entropy"
        self.needs = frozenset({STUDENT_MAX_PROB})
        if self._entropy:
            self.needs |= {STUDENT_ENTROPY}

    def forward(self, candidates: Candidates) -> Tensor:
        """(B, T) >= 1."""
        signals = candidates.signals
        most, entropy = signals.student_max_prob, signals.student_entropy
        assert most is not None, "as needed"
        difficulty = 1 - most
        if self._entropy:
            assert entropy is not None, "as needed"
            difficulty = entropy
        more = candidates.number(self._alpha, "alpha") * difficulty
        unsure = most < candidates.number(self._gamma, "gamma")  # no NaN is
        return 1 + more.where(unsure & more.isfinite(), 0.0)


class ExcessLoss(nn.Module):
    """Where the student loses most beside a teacher: a share with the greatest excess.

    Excess is the student's next-token loss less the teacher's, nats a token. A line
    among the last steps parts the share off; ``threshold`` is a line of its own.

    Source:
        Selective language modelling, Rho-1, Lin et al. 2024 (arXiv 2404.07965), eq. 3
        to 5: the reference is a teacher here. Departures: the line comes from the last
        steps, so that a token's weight does not depend on which others share its pass;
        each teacher selects for itself, and where the next token's own loss is selected
        too it counts by the teachers' routing weights.
    """

    def __init__(
        self,
        teachers: Sequence[str],
        domains: Sequence[str],
        *,
        share: ScheduledShare | None = None,
        threshold: float | None = None,
        apart: Apart = "none",
    ) -> None:
        """Know nothing yet.

        Args:
            teachers: M names.
            domains: of all texts that are learned from.
            share: of places that are kept; 0.6 where no ``threshold`` is given.
            threshold: excess from which places are kept, nats.
            apart: whose shares are counted by themselves.

        Raises:
            InputError: both are given, or a share of nothing.
        """
        super().__init__()
        if share is not None and threshold is not None:
            raise InputError("share and threshold exclude each other; give one of both")
        if share is not None and greatest(share) == 0:
            raise InputError(
                f"share is {share}, so that nothing is kept; give a share above 0, or "
                "leave the selector out"
            )
        self._share = 0.6 if share is None and threshold is None else share
        self.threshold = Threshold(
            teachers,
            domains,
            threshold=threshold,
            percentile=None if self._share is None else 50.0,
            deviations=None,
            apart=apart,
        )
        self.needs = self.threshold.needs | {LOG_PROB, STUDENT_LOG_PROB}

    def forward(self, candidates: Candidates) -> Tensor:
        """(B, T, M), 1 where it is kept, else 0."""
        excess = self._excess(candidates)
        at = None
        if self._share is not None:
            at = 100 * (1 - candidates.number(self._share, "share"))
        return kept(excess, self.threshold.line(candidates, excess.shape, at))

    def note(self, candidates: Candidates) -> None:
        """Count a pass."""
        self.threshold.note(candidates, self._excess(candidates))

    def _excess(self, candidates: Candidates) -> Tensor:
        teacher = candidates.signals.log_prob
        student = candidates.signals.student_log_prob
        assert teacher is not None and student is not None, "as needed"
        return teacher - student[..., None]


class ConfidentTeacher(nn.Module):
    """More weight where a teacher is sure: ``exp(-strength (1 - p))``.

    p is the teacher's probability of the token that came, or its greatest one.

    Source:
        The token-adaptive weight ``β exp(-p)`` that grows where the teacher is unsure,
        though it is said to trust a sure one more. This does; ``prefer: unsure`` is the
        formula as it is written, with ``strength`` in it. Departure: means are over
        what places weigh, so the term's own weight stays what it is.
    """

    def __init__(
        self,
        teachers: Sequence[str],
        domains: Sequence[str],
        *,
        strength: ScheduledNotNegative = 1.0,
        by: Literal["came", "greatest"] = "came",
        prefer: Literal["sure", "unsure"] = "sure",
    ) -> None:
        """Take how much, by what, and which way.

        Args:
            teachers: M names.
            domains: of all texts.
            strength: 0: all alike.
            by: the probability of the token that ``came``, of another vocabulary the
                token's share of its stretch, or the ``greatest``.
            prefer: ``sure``, or ``unsure`` for ``exp(-strength p)``.
        """
        super().__init__()
        self._strength, self._came = strength, by == "came"
        self._sure = prefer == "sure"
        self.needs = frozenset({LOG_PROB if self._came else MAX_PROB})

    def forward(self, candidates: Candidates) -> Tensor:
        """(B, T, M) in (0, 1]; 1 where the teacher's probability is not known."""
        signals = candidates.signals
        log_prob, most = signals.log_prob, signals.max_prob
        if self._came:
            assert log_prob is not None, "as needed"
            most = log_prob.exp()
        assert most is not None, "as needed"
        strength = candidates.number(self._strength, "strength")
        weight = torch.exp(-strength * (1 - most if self._sure else most))
        return weight.where(most.isfinite(), 1.0)


def _refuse_nothing(percentile: Setting, keep: str) -> None:
    """See that a percentile leaves places on the side that is kept.

    Raises:
        InputError: it never does.
    """
    nothing = least(percentile) >= 100 if keep == "above" else greatest(percentile) == 0
    if nothing:
        raise InputError(
            f"percentile is {percentile} with keep: {keep}, so that nothing is kept; "
            "give one strictly between 0 and 100, or leave the selector out"
        )


SELECTORS: Mapping[str, Callable[..., Selector]] = {
    "uncertain": Uncertain,
    "unsure_student": UnsureStudent,
    "excess_loss": ExcessLoss,
    "confident_teacher": ConfidentTeacher,
}
"""By name. Each is made of the teachers' names and of the texts' domains."""
