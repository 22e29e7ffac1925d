"""Settings of the terms on next-token outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

from annotated_types import Interval

from align.schedules import (
    ScheduledNotNegative,
    ScheduledPositive,
    ScheduledShare,
    ScheduledShareBelowOne,
    Setting,
    is_on,
    is_schedule,
)
from align.support.field_types import (
    AtLeastOne,
    Count,
    Positive,
    ShareBelowOne,
    check_fields,
    checked,
)
from student.output.kinds import DivergenceKind, LikelihoodForm, SequenceCost

OutputTerm = Literal["kd", "hybrid_ot", "sequence_ot", "likelihood", "projected_kl"]
OUTPUT_TERMS: tuple[OutputTerm, ...] = get_args(OutputTerm)
SAME_VOCABULARY = ("kd", "sequence_ot")
"""Output objectives that compare token by token."""
HEATED = ("kd", "hybrid_ot", "projected_kl", "likelihood")
"""Output objectives that have a temperature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """What is learned from teachers' next-token distributions; weights of 0 leave all
    of it out. Only causal language models have such an output."""

    kd: ScheduledNotNegative = 0.0
    """Weight of the divergence from teachers of the student's own vocabulary, nats per
    token, times the temperature squared."""
    hybrid_ot: ScheduledNotNegative = 0.0
    """Weight of ``ot_alpha`` times the least cost of moving the student's mass on its
    likeliest tokens onto the teacher's, plus (1 - ``ot_alpha``) times the divergence
    of ``kd``; from a teacher of another vocabulary tokens are compared by their
    spelling, and the ``likelihood`` stands in for the divergence."""
    sequence_ot: ScheduledNotNegative = 0.0
    """Weight of the least cost of matching the student's tokens of a text with the
    teacher's, compared as logits. Of the student's vocabulary."""
    likelihood: ScheduledNotNegative = 0.0
    """Weight of the distance between the probabilities that student and teacher give
    to the same stretches of text, whatever their vocabularies, nats per stretch."""
    projected_kl: ScheduledNotNegative = 0.0
    """Weight of the divergence over the pieces of text that both vocabularies have,
    where both models have read the same text; nats per place, times the temperature
    squared."""
    teachers: dict[str, list[str]] = field(default_factory=dict)
    """Objective -> teachers it learns from; one that is not named here takes every
    teacher of the phase that has a next-token output."""
    divergence: DivergenceKind = "forward"
    """Of ``kd``: ``forward`` KL(teacher || student), ``reverse`` KL(student ||
    teacher), ``jensen_shannon`` of both to their mean, ``skew_forward`` KL(teacher ||
    mean) or ``skew_reverse`` KL(student || mean)."""
    mix: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    """The teacher's share in that mean; DistiLLM's skew of 0.1 is 0.1 with
    ``skew_forward`` and 0.9 with ``skew_reverse``."""
    temperature: ScheduledPositive = 1.0
    """Softmax temperature of ``kd``, ``hybrid_ot`` and ``projected_kl``; higher is
    flatter. Where it moves, ``likelihood_temperature`` moves by the same factor."""
    temperature_rule: str = "constant"
    """With the next two short for ``temperature: {from, to, steps, rule}``: a
    registered schedule, from ``temperature`` towards ``temperature_end``."""
    temperature_end: Positive = 1.0
    """Where the rule leads."""
    temperature_steps: AtLeastOne = 1000
    """Optimiser steps of a phase in which a schedule gets there."""
    top_k: Count = 0
    """Tokens that the teacher names in ``kd``, its most probable ones, all others being
    one bucket; 0: the whole vocabulary."""
    threshold: ShareBelowOne = 0.0
    """As ``top_k``, but naming tokens of at least this probability."""
    hard_labels: ScheduledNotNegative = 0.0
    """Weight, within ``kd``, of the next-token cross-entropy; it is taken from the same
    logits, so with ``loss.delta_ce: 0`` a step has one pass through the head less."""
    label_smoothing: ScheduledShareBelowOne = 0.0
    """Probability that ``hard_labels`` spread over the vocabulary."""
    surprise: ScheduledNotNegative = 0.0
    """How much less ``kd`` weighs a token that surprises the teacher: times
    ``exp(-surprise · (1 - p))``, p its probability of the token that came; 0: alike."""
    combine: Literal["losses", "distributions"] = "losses"
    """How ``kd`` takes several teachers: a sum of ``losses``, or the mean of their
    ``distributions``, both by their weights at each token. Under ``forward`` over the
    whole vocabulary at one temperature both have the same gradient, and values that
    differ by how far the teachers disagree."""
    weighting: Literal["routing", "cross_entropy", "entropy", "max_probability"] = (
        "routing"
    )
    """How several teachers share a token, except in ``sequence_ot``: as the phase's
    fusion weighs them (``routing``), or by their own confidence there:
    ``cross_entropy`` (probability of the token that comes), ``entropy`` or
    ``max_probability``; across vocabularies per character of the stretch of text."""
    ot_alpha: ScheduledShare = 0.5
    """Share of the transport in ``hybrid_ot``."""
    ot_top_k: AtLeastOne = 50
    """Most tokens of each model between which mass moves."""
    ot_adaptive: bool = False
    """Take fewer where the teacher hesitates between fewer."""
    sequence_cost: SequenceCost = "cosine"
    """Of ``sequence_ot``: ``cosine``, ``squared`` or ``softmax``."""
    likelihood_form: LikelihoodForm = "binary"
    """``binary``, ``squared`` or ``absolute`` difference of log-probabilities."""
    likelihood_temperature: Positive = 100.0
    """Of the binary form; the larger, the more alike likely and unlikely text
    counts. Moves as ``temperature`` does."""
    likelihood_ends: Literal["tokens", "blanks"] = "tokens"
    """Where the stretches of ``likelihood`` end: where ``tokens`` of both models do, or
    only before ``blanks``, with the probability that a blank follows as part of it."""
    projected_chains: bool = False
    """Whether ``projected_kl`` also tells apart the stretch of text that came, by the
    product of its tokens' probabilities."""
    block: AtLeastOne = 128
    """Tokens whose logits are held at once."""

    def __post_init__(self) -> None:
        """Check every field, and combinations.

        Raises:
            ValueError: a value that its type does not take, or two exclude each other.
        """
        check_fields(self, "output")
        if self.top_k and self.threshold:
            raise ValueError(
                f"output.top_k={self.top_k} and output.threshold={self.threshold} both "
                "limit the named tokens; set one of them to 0"
            )
        if is_schedule(self.temperature) and self.temperature_rule != "constant":
            raise ValueError(
                "output.temperature is a schedule, and output.temperature_rule="
                f"{self.temperature_rule} is short for another; leave the second out"
            )
        for name, listed in self.teachers.items():
            checked(OutputTerm, name, "an entry of output.teachers")
            if not listed:
                raise ValueError(
                    f"output.teachers.{name} is [], so that output.{name} has nobody "
                    "to learn from; name teachers, or leave it out for all of them"
                )

    def under(self, kind: str, options: Mapping[str, Any]) -> OutputConfig:
        """What holds for one term.

        Args:
            kind: of the term, a field of these.
            options: the term's own, of the same names; null ones change nothing.

        Raises:
            ValueError: a value that cannot be used, or two exclude each other.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if "teachers" in given:
            given["teachers"] = {**self.teachers, kind: given["teachers"]}
        if is_schedule(given.get("temperature")):
            given.setdefault("temperature_rule", "constant")
        return replace(self, **given) if given else self

    @property
    def weights(self) -> dict[str, Setting]:
        """The weight of every objective that is on."""
        weights = {name: getattr(self, name) for name in OUTPUT_TERMS}
        return {name: weight for name, weight in weights.items() if is_on(weight)}

    @property
    def heat(self) -> Mapping[str, Any]:
        """The schedule of the temperature, for which a number and a rule are short."""
        if isinstance(self.temperature, Mapping):
            return self.temperature
        return {
            "from": self.temperature,
            "to": self.temperature_end,
            "steps": self.temperature_steps,
            "rule": self.temperature_rule,
        }

    @property
    def start(self) -> float:
        """Where the temperature begins."""
        return float(self.heat["from"])
