"""Contract of evaluators: a tiny model is measured, twice, with teachers and alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from align.text.documents import TextSample
from align.tokenizer_align import encode_batch
from plugins.contracts.models.answers import evaluator_problem, metrics_problem
from plugins.contracts.models.teacher_source import small_teacher
from plugins.promise import Promise, problem
from plugins.untouched import Untouched
from student.evaluators.base import EvalContext, Measured, Subject

TEXTS = (
    "One teacher says a little, and the student listens.",
    "Two teachers say the same thing in other words.",
    "def ask(batch): return batch.tokens",
)


def evaluator(factory: Callable[..., Any]) -> Iterator[Promise]:
    """An evaluator measures models of one layer on three short texts."""
    subject = _Tried(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


@dataclass(frozen=True)
class _Tried:
    """What is tried."""

    factory: Callable[..., Any]

    @cached_property
    def made(self) -> Any:
        """An evaluator."""
        return self.factory()

    @cached_property
    def context(self) -> EvalContext:
        """A student between two teachers of its vocabulary."""
        return small_context(("aunt", "uncle"))

    @cached_property
    def measured(self) -> Measured:
        """What it finds first."""
        measured: Measured = self.made(self.context)
        return measured


def small_context(teachers: tuple[str, ...]) -> EvalContext:
    """Models of random weights that read bytes, and texts of two domains."""
    return EvalContext(
        subject=_subject("student", 1),
        teachers={name: _subject(name, 2 + i) for i, name in enumerate(teachers)},
        samples=[
            TextSample(text, "code" if "def" in text else "prose", f"text {i}")
            for i, text in enumerate(TEXTS)
        ],
    )


def _subject(name: str, seed: int) -> Subject:
    teacher = small_teacher(name, seed)
    loaded = teacher.loaded
    return Subject(
        name=name,
        model=loaded.model,
        capture=teacher.capture,
        tokenizer=loaded.tokenizer,
        encode=lambda texts: encode_batch(loaded.tokenizer, texts),
        max_tokens=256,
    )


def _says_what_it_measures(tried: _Tried) -> str:
    return metrics_problem(tried.made)


def _measures_what_it_says(tried: _Tried) -> str:
    return evaluator_problem(tried.measured, tried.made.metrics)


def _leaves_the_models(tried: _Tried) -> str:
    ctx = tried.context
    models = {s.name: s.model for s in (ctx.subject, *ctx.teachers.values())}
    given = {name: dict(model.named_parameters()) for name, model in models.items()}
    before = Untouched(given, whole=True)
    tried.made(ctx)
    training = [name for name, model in models.items() if model.training]
    return before.problem() or problem(
        training, f"leaves {training[:1]} in training mode"
    )


def _same_metrics_again(tried: _Tried) -> str:
    first, again = _parts(tried.measured), _parts(tried.made(tried.context))
    return problem(first != again, "measures other metrics or parts when asked again")


def _does_without_teachers(tried: _Tried) -> str:
    measured = tried.made(small_context(()))
    return evaluator_problem(measured, tried.made.metrics)


def _parts(measured: Measured) -> Mapping[str, list[str]]:
    return {metric: list(parts) for metric, parts in measured.values.items()}


_PROMISES = (
    (
        "says what it measures, in which unit, and what is better",
        _says_what_it_measures,
    ),
    ("measures finite numbers of what it says", _measures_what_it_says),
    ("leaves the models as they are", _leaves_the_models),
    ("measures the same metrics and parts again", _same_metrics_again),
    ("says so where there is no teacher", _does_without_teachers),
)
