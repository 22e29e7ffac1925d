"""Options of the built-in terms, in ``loss.terms``; null is what the whole phase has.

An option is called as the setting of ``output`` or ``loss`` for which it stands in, and
is described there. So two terms of one kind may differ, each under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from align.schedules import (
    ScheduledNotNegative,
    ScheduledPositive,
    ScheduledShare,
    ScheduledShareBelowOne,
)
from align.support.field_types import AtLeastOne, Count, Positive, ShareBelowOne
from student.layers import feature_temperature, moved
from student.objective import StepContext, Term
from student.output.kinds import DivergenceKind, LikelihoodForm, SequenceCost
from student.places import Places


@dataclass(frozen=True, kw_only=True)
class TermOptions:
    """What a term may be told beside its weight."""

    kind: ClassVar[str]

    @property
    def given(self) -> Mapping[str, Any]:
        """Those that are not null."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def context(self, ctx: StepContext) -> StepContext:
        """What the term reads, under its options."""
        raise NotImplementedError

    def places(self, places: Places) -> Places:
        """What it counts, likewise."""
        return places


@dataclass(frozen=True, kw_only=True)
class NextTokenOptions(TermOptions):
    """Of ``ce``, as in ``loss``."""

    smoothing: ScheduledShareBelowOne | None = None

    def context(self, ctx: StepContext) -> StepContext:
        """With labels that are smoothed otherwise."""
        if self.smoothing is None:
            return ctx
        return replace(ctx, smoothing=ctx.number(self.smoothing, "smoothing"))


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(TermOptions):
    """Of ``attention_kl``, ``relation_k`` and ``relation_v``, as in ``loss``."""

    temperatures: list[ScheduledPositive] | None = None

    def context(self, ctx: StepContext) -> StepContext:
        """With another temperature of the student's layers."""
        layers = [len(pair.student) for pair in ctx.attention]
        layers += [len(relation.student_k) for relation in ctx.relations]
        if self.temperatures is None or not layers:
            return ctx
        place = f"{ctx.place}.temperatures"
        numbers = moved(self.temperatures, place, ctx.timetable, ctx.step)
        temperature = feature_temperature(numbers, layers[0], place)
        if temperature is not None:
            temperature = temperature.to(ctx.batch.ids.device)
        return replace(ctx, temperature=temperature)


@dataclass(frozen=True, kw_only=True)
class OutputOptions(TermOptions):
    """Of a term on outputs, as in ``output``; ``teachers`` is a list of names."""

    teachers: list[str] | None = None

    def context(self, ctx: StepContext) -> StepContext:
        """With other settings of ``output``."""
        if not self.given or ctx.outputs is None:
            return ctx
        return replace(ctx, outputs=ctx.outputs.under(self.kind, self.given, ctx.place))

    def places(self, places: Places) -> Places:
        """With other settings of ``output``."""
        if not self.given or places.plan is None:
            return places
        return replace(places, plan=places.plan.under(self.kind, self.given))


@dataclass(frozen=True, kw_only=True)
class _Temperature:
    temperature: ScheduledPositive | None = None
    temperature_rule: str | None = None
    temperature_end: Positive | None = None
    temperature_steps: AtLeastOne | None = None


@dataclass(frozen=True, kw_only=True)
class _Divergence:
    divergence: DivergenceKind | None = None
    mix: Annotated[float, Interval(gt=0, lt=1)] | None = None
    top_k: Count | None = None
    threshold: ShareBelowOne | None = None


@dataclass(frozen=True, kw_only=True)
class _Weighting:
    weighting: (
        Literal["routing", "cross_entropy", "entropy", "max_probability"] | None
    ) = None


@dataclass(frozen=True, kw_only=True)
class _Likelihood:
    likelihood_form: LikelihoodForm | None = None
    likelihood_temperature: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class KdOptions(_Weighting, _Divergence, _Temperature, OutputOptions):
    """Of ``kd``."""

    hard_labels: ScheduledNotNegative | None = None
    label_smoothing: ScheduledShareBelowOne | None = None
    surprise: ScheduledNotNegative | None = None
    combine: Literal["losses", "distributions"] | None = None


@dataclass(frozen=True, kw_only=True)
class HybridOptions(_Likelihood, _Weighting, _Divergence, _Temperature, OutputOptions):
    """Of ``hybrid_ot``."""

    ot_alpha: ScheduledShare | None = None
    ot_top_k: AtLeastOne | None = None
    ot_adaptive: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SequenceOptions(OutputOptions):
    """Of ``sequence_ot``."""

    sequence_cost: SequenceCost | None = None


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions(_Likelihood, _Weighting, _Temperature, OutputOptions):
    """Of ``likelihood``."""

    likelihood_ends: Literal["tokens", "blanks"] | None = None


@dataclass(frozen=True, kw_only=True)
class ProjectedOptions(_Weighting, _Divergence, _Temperature, OutputOptions):
    """Of ``projected_kl``."""

    projected_chains: bool | None = None


class _Told:
    """A term that is called under its options; see :func:`with_options`."""

    term: ClassVar[Term]

    @property
    def needs(self) -> frozenset[str]:
        """The term's."""
        return self.term.needs

    @property
    def compares(self) -> bool:
        """The term's."""
        return self.term.compares

    @property
    def fades(self) -> bool:
        """The term's."""
        return self.term.fades

    @property
    def alone(self) -> bool:
        """The term's."""
        return self.term.alone

    def count(self, places: Places) -> Any:
        """What the term counts, under the options."""
        assert self.term.count is not None and isinstance(self, TermOptions)
        return self.term.count(self.places(places))

    def __call__(self, ctx: StepContext) -> Any:
        """Apply the term's function, under the options."""
        assert isinstance(self, TermOptions)
        return self.term(self.context(ctx))


def with_options(kind: str, term: Term) -> type:
    """A dataclass of a term's options, whose instances are objectives."""
    assert term.options is not None
    name, facts = f"{term.options.__name__}_{kind}", {"kind": kind, "term": term}
    return type(name, (_Told, term.options), facts | {"__module__": __name__})
