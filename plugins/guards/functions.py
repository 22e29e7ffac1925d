"""Guards of what is no module: aligners, maps, calibrations, numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.causality import CausalityError, check_causal
from align.schedules import Moment
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from plugins import answers
from plugins.contracts.models import answers as model_answers
from plugins.entry import Entry
from plugins.guards.shared import (
    Seldom,
    StandIn,
    all_finite,
    blamed,
    made_by,
    require,
)
from plugins.untouched import Untouched
from student.curriculum import Draw, Scores


class _Aligner(StandIn):
    def __init__(self, entry: Entry, inner: Any) -> None:
        super().__init__(entry, inner)
        causal = getattr(inner, "causal", None)
        if not isinstance(causal, bool):
            raise entry.error(f"has causal = {causal!r}; say True or False")
        self.causal: bool = causal
        self._seldom = Seldom()

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Any:
        before = Untouched({"student": student, "teacher": teacher}, whole=True)
        with blamed(self._entry):
            alignment = self._inner(student, teacher)
        require(
            self._entry,
            answers.alignment_problem(alignment, student, teacher) or before.problem(),
        )
        if self.causal:
            try:
                check_causal(alignment, student, teacher)
            except CausalityError as error:
                raise self._entry.error(f"says causal = True, but {error}") from error
        if self._seldom.now():
            self._try_alone(alignment, student, teacher)
        # A copy: an aligner that fills the same tensors again would change batches
        # that wait to be trained on.
        shared = None if alignment.shared is None else alignment.shared.clone()
        return replace(
            alignment,
            rows=alignment.rows.clone(),
            cols=alignment.cols.clone(),
            weights=alignment.weights.clone(),
            shared=shared,
        )

    def _try_alone(
        self, alignment: Alignment, student: TokenBatch, teacher: TokenBatch
    ) -> None:
        """See that the first text is aligned as it is without the others."""
        alone = _first_text(student), _first_text(teacher)
        with blamed(self._entry):
            again = self._inner(*alone)
        problem = answers.alignment_problem(again, *alone)
        first = alignment.rows < student.ids.shape[1]
        if not problem and not (
            torch.equal(alignment.rows[first], again.rows)
            and torch.equal(alignment.cols[first], again.cols)
            and torch.allclose(alignment.weights[first], again.weights, atol=1e-4)
        ):
            problem = "aligns a text otherwise in another batch"
        require(self._entry, problem)


def _first_text(batch: TokenBatch) -> TokenBatch:
    return TokenBatch(batch.ids[:1], batch.mask[:1], batch.spans[:1], batch.texts[:1])


class _LayerMap(StandIn):
    def __call__(self, teacher: int, student: int, *sample: Any) -> Any:
        before = Untouched({"the sample": sample})
        with blamed(self._entry):
            layer_map = self._inner(teacher, student, *sample)
        require(
            self._entry,
            answers.layer_map_problem(layer_map, teacher, student) or before.problem(),
        )
        return layer_map


class _Adapter(StandIn):
    def __call__(self, stats: Any) -> tuple[Tensor, Tensor]:
        before = Untouched(stats)
        with blamed(self._entry):
            adapter = self._inner(stats)
        require(
            self._entry, answers.adapter_problem(adapter, stats) or before.problem()
        )
        weight, bias = adapter
        return weight.detach().clone(), bias.detach().clone()


class _RopeScaler(StandIn):
    def __call__(self, base: float, dim: int, scale: float) -> float:
        before = Untouched({})
        with blamed(self._entry):
            scaled = self._inner(base, dim, scale)
        require(
            self._entry, answers.base_problem(scaled, base, scale) or before.problem()
        )
        return float(scaled)


class _Schedule(StandIn):
    def __call__(self, moment: Moment, **options: Any) -> float | Tensor:
        tokens: list[int] = []

        def entropy() -> Tensor:
            uncertainty = moment.teacher_entropy()
            tokens.append(len(uncertainty))
            return uncertainty

        def spread() -> tuple[Tensor, Tensor]:
            both = moment.logit_spread()
            tokens.append(len(both[0]))
            return both

        def gap() -> Tensor:
            more = moment.loss_gap()
            tokens.append(len(more))
            return more

        counted = replace(
            moment, teacher_entropy=entropy, logit_spread=spread, loss_gap=gap
        )
        before = Untouched({})
        with blamed(self._entry):
            number = self._inner(counted, **options)
        if isinstance(number, Tensor) and number.dim() and not tokens:
            entropy()
        above = moment.start > 0 and moment.end > 0
        require(
            self._entry,
            answers.schedule_problem(number, tokens[0] if tokens else None, above)
            or before.problem(),
        )
        return number.detach().float() if isinstance(number, Tensor) else float(number)


class _Distance(StandIn):
    def __init__(self, entry: Entry, inner: Any) -> None:
        super().__init__(entry, inner)
        for name in ("per_token", "equal_widths"):
            value = getattr(inner, name, None)
            if not isinstance(value, bool):
                raise entry.error(f"has {name} = {value!r}; say True or False")
        self.per_token: bool = inner.per_token
        self.equal_widths: bool = inner.equal_widths

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        given = {"the prediction": pred, "the target": target, "the weight": weight}
        before = Untouched(given)
        with blamed(self._entry):
            apart = self._inner(pred, target, weight)
        problem = answers.distance_problem(apart, weight, self.per_token)
        if problem and not all_finite(given, self._inner):
            return apart  # training's trouble, told where it is found
        require(self._entry, problem or before.problem())
        return apart


class _TeacherSource(StandIn):
    def __init__(self, entry: Entry, inner: Any) -> None:
        super().__init__(entry, inner)
        with blamed(entry):
            wrong = model_answers.teacher_source_problem(inner)
        require(entry, wrong)

    def fingerprint(self) -> Any:
        with blamed(self._entry):
            return self._inner.fingerprint()

    def open(self, opening: Any) -> Any:
        with blamed(self._entry):
            return self._inner.open(opening)

    def begin(self, opening: Any, start: Any) -> Any:
        with blamed(self._entry):
            return self._inner.begin(opening, start)

    def after_step(self, teacher: Any, student: Any, step: int) -> None:
        before = Untouched({"the student": dict(student.named_parameters())})
        with blamed(self._entry):
            self._inner.after_step(teacher, student, step)
        require(self._entry, before.problem())


class _StudentMaker(StandIn):
    def __init__(self, entry: Entry, inner: Any) -> None:
        super().__init__(entry, inner)
        needs = getattr(inner, "needs_sample", None)
        if not isinstance(needs, bool):
            raise entry.error(f"has needs_sample = {needs!r}; say True or False")
        self.needs_sample: bool = needs

    def __call__(self, model: Any, sample: Any = None) -> Any:
        before = Untouched({"the source": dict(model.named_parameters())})
        with blamed(self._entry):
            made = self._inner(model, sample)
        depth = model.config.num_hidden_layers
        problem = model_answers.student_maker_problem(made, depth) or before.problem()
        require(self._entry, problem)
        return made


class _Transform(StandIn):
    def attach(self, model: Any) -> None:
        before = dict(model.named_parameters())
        with blamed(self._entry):
            self._inner.attach(model)
        require(self._entry, model_answers.attached_problem(before, model))

    def at(self, strength: float, step: int) -> None:
        with blamed(self._entry):
            self._inner.at(strength, step)

    def recall(self) -> None:
        with blamed(self._entry):
            self._inner.recall()


def _transform(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: _Transform(entry, made_by(entry, factory, **options))


class _Writer(StandIn):
    def __init__(self, entry: Entry, inner: Any) -> None:
        super().__init__(entry, inner)
        by = getattr(inner, "by_likelihood", None)
        if not isinstance(by, bool):
            raise entry.error(f"has by_likelihood = {by!r}; say True or False")
        self.by_likelihood: bool = by

    def fields(self) -> Any:
        with blamed(self._entry):
            fields = self._inner.fields()
        require(self._entry, model_answers.writer_problem(fields))
        return fields

    def chosen(self, candidates: Sequence[str]) -> Any:
        before = Untouched({})
        with blamed(self._entry):
            chosen = self._inner.chosen(tuple(candidates))
        problem = answers.chosen_problem(chosen, len(candidates)) or before.problem()
        require(self._entry, problem)
        return chosen


def _writer(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: _Writer(entry, made_by(entry, factory, **options))


class _Evaluator(StandIn):
    def __init__(self, entry: Entry, inner: Any) -> None:
        super().__init__(entry, inner)
        with blamed(entry):
            wrong = model_answers.metrics_problem(inner)
        require(entry, wrong)

    def __call__(self, ctx: Any) -> Any:
        before = Untouched({"the model": dict(ctx.subject.model.named_parameters())})
        with blamed(self._entry):
            measured = self._inner(ctx)
        wrong = model_answers.evaluator_problem(measured, self._inner.metrics)
        require(self._entry, wrong or before.problem())
        return measured


class _Curriculum(StandIn):
    def __call__(self, scores: Scores, draw: Draw) -> list[int]:
        before = Untouched({"scores": dict(scores.columns)}, whole=True)
        with blamed(self._entry):
            numbers = self._inner(scores, draw)
        wrong = answers.numbers_problem(numbers, draw.size, len(scores))
        require(self._entry, wrong or before.problem())
        return [int(number) for number in numbers]


def _curriculum(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: _Curriculum(entry, made_by(entry, factory, **options))


def _evaluator(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: _Evaluator(entry, made_by(entry, factory, **options))


def _student_maker(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: _StudentMaker(entry, made_by(entry, factory, **options))


def _teacher_source(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    return lambda rest, **options: _TeacherSource(
        entry, made_by(entry, factory, rest, **options)
    )


def _distance(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: _Distance(entry, made_by(entry, factory, **options))


def _aligner(entry: Entry, factory: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: _Aligner(entry, made_by(entry, factory))


GUARDS: Mapping[str, Callable[[Entry, Any], Any]] = {
    "aligner": _aligner,
    "layer_map": _LayerMap,
    "adapter": _Adapter,
    "rope_scaler": _RopeScaler,
    "distance": _distance,
    "schedule": _Schedule,
    "teacher_source": _teacher_source,
    "student_maker": _student_maker,
    "transform": _transform,
    "writer": _writer,
    "evaluator": _evaluator,
    "curriculum": _curriculum,
}
"""By kind."""
