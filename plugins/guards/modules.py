"""Guards of what is a module, or may be: routers, objectives, balancers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import MtkdError
from fuse.beforehand.texts import Texts, decides_before_reading, difficulty_needed
from fuse.routers.router import learns, needs_sample
from fuse.signals import Signals, check_signals, signals_needed
from plugins import answers
from plugins.contracts.router import company_counts
from plugins.contracts.signalled import later_counts
from plugins.entry import Entry
from plugins.guards.shared import (
    Seldom,
    StandIn,
    all_finite,
    blamed,
    guarded_module,
    made_by,
    partitioned,
    require,
)
from plugins.untouched import Untouched
from student.balance import Balanced, Standing
from student.select.candidates import Candidates, selector_needs


def router(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory of routers whose answers are checked."""
    with blamed(entry):
        needs = signals_needed(factory)

    def build(hidden_dim: int, num_teachers: int, **options: Any) -> nn.Module:
        made = made_by(entry, factory, hidden_dim, num_teachers, **options)
        if not isinstance(made, nn.Module):
            raise entry.error(
                f"makes a {type(made).__name__}; a router is a torch.nn.Module"
            )

        seldom = Seldom()

        def call(router: Any, query: Tensor, *signals: Signals) -> Tensor:
            before = Untouched({"the query": query, "the signals": signals})
            with blamed(entry):
                weights = router(query, *signals)
            problem = answers.weights_problem(weights, query, num_teachers)
            if problem and not all_finite(query, made):
                return weights  # training's trouble, told where it is found
            problem = problem or before.problem()
            if not problem and seldom.now() and not partitioned(made):
                with blamed(entry):
                    problem = _leak(router, query, signals)
            require(entry, problem)
            learns = any(p.requires_grad for p in made.parameters())
            if learns and torch.is_grad_enabled() and weights.grad_fn is None:
                raise entry.error(
                    "returns weights without a gradient to its parameters"
                )
            return weights

        watched = _fitted(entry, type(made)) if needs_sample(factory) else {}
        if decides_before_reading(factory):
            watched |= _beforehand(entry, type(made), num_teachers)
        return guarded_module(made, call, watched, takes=2 if needs else 1)

    build.learns, build.needs_sample = learns(factory), needs_sample(factory)  # type: ignore[attr-defined]
    build.needs = needs  # type: ignore[attr-defined]
    build.causal = getattr(factory, "causal", True)  # type: ignore[attr-defined]
    build.before_reading = decides_before_reading(factory)  # type: ignore[attr-defined]
    build.difficulty = difficulty_needed(factory)  # type: ignore[attr-defined]
    depending = getattr(factory, "needs_with", None)
    if depending is not None:
        build.needs_with = _needs_with(entry, depending)  # type: ignore[attr-defined]
    return build


def _needs_with(
    entry: Entry, depending: Callable[..., Any]
) -> Callable[..., frozenset[str]]:
    """What a router with some options needs."""

    def needs_with(**options: Any) -> frozenset[str]:
        with blamed(entry):
            return check_signals(f"router {entry.name!r}", depending(**options))

    return needs_with


def _leak(router: Any, query: Tensor, signals: tuple[Signals, ...]) -> str:
    """What a router's weights depend on though they must not."""
    if signals:
        if later_counts(router, query, *signals):
            return "lets what a token is told change the weights up to it"
    elif company_counts(router, query):
        return "gives a row other weights in another batch"
    return ""


def _fitted(entry: Entry, plain: Any) -> dict[str, Any]:
    """A router's ``fit``, watched."""
    if not callable(getattr(plain, "fit", None)):
        raise entry.error("says needs_sample = True and has no method fit")

    def fit(router: Any, sample: Any) -> None:
        before = Untouched(sample)
        with blamed(entry):
            plain.fit(router, sample)
        require(entry, before.problem())

    return {"fit": fit}


def _beforehand(entry: Entry, plain: Any, teachers: int) -> dict[str, Any]:
    """A router's ``beforehand``, watched."""
    if not callable(getattr(plain, "beforehand", None)):
        raise entry.error("says before_reading = True and has no method beforehand")

    def beforehand(router: Any, texts: Texts) -> Tensor:
        with blamed(entry):
            weights: Tensor = plain.beforehand(router, texts)
        count = len(texts.domains)
        require(entry, answers.beforehand_problem(weights, count, teachers))
        return weights

    return {"beforehand": beforehand}


def projector(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory of projectors whose answers are checked."""

    def build(student: int, teacher: int, layers: int, **options: Any) -> nn.Module:
        made = made_by(entry, factory, student, teacher, layers, **options)
        if not isinstance(made, nn.Module):
            raise entry.error(
                f"makes a {type(made).__name__}; a projector is a torch.nn.Module"
            )
        plain: Any = type(made)
        width = teacher

        def call(project: Any, x: Tensor) -> Tensor:
            before = Untouched({"the features": x})
            with blamed(entry):
                projected = project(x)
            problem = answers.projection_problem(projected, x, width)
            if problem and not all_finite(x, made):
                return projected  # training's trouble, told where it is found
            require(entry, problem or before.problem())
            return projected

        def target(projector: Any, y: Tensor) -> Tensor:
            nonlocal width
            with blamed(entry):
                compared: Tensor = plain.target(projector, y)
            width = compared.shape[-1]
            require(entry, answers.projection_problem(compared, y, width))
            return compared

        own_side = hasattr(plain, "target")
        return guarded_module(made, call, {"target": target} if own_side else {})

    return build


def objective(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory of objectives whose answers are checked."""

    def build(**options: Any) -> Any:
        from student.objective import NEEDS

        made = made_by(entry, factory, **options)
        needs = getattr(made, "needs", None)
        if not isinstance(needs, frozenset) or not needs <= NEEDS:
            raise entry.error(
                f"has needs = {needs!r}; give a frozenset of any of "
                f"{', '.join(sorted(NEEDS))}"
            )
        if not callable(made):
            raise entry.error(f"makes a {type(made).__name__}, which takes no context")

        def call(objective: Any, ctx: Any) -> Tensor:
            before = Untouched(ctx)
            with blamed(entry):
                loss = objective(ctx)
            problem = answers.loss_problem(loss) or before.problem()
            require(entry, problem or _loss_problem(loss, ctx, made))
            return loss

        counts = _counts(entry, made)
        if isinstance(made, nn.Module):
            watched: dict[str, Any] = {"needs": property(lambda _: needs)}
            if callable(getattr(made, "fit", None)):
                watched |= _fitted_on_contexts(entry, type(made))
            if counts is not None:
                watched["count"] = staticmethod(counts)
            return guarded_module(made, call, watched)
        stand = _Objective(entry, made, call, counts)
        stand.needs = needs  # what it says once
        return stand

    return build


class _WatchedSample:
    """A sample that a plugin passes over, each of its contexts compared afterwards."""

    def __init__(self, entry: Entry, sample: Iterable[Any]) -> None:
        self._entry, self._sample = entry, sample
        self.error: Exception | None = None
        """What making a context raised, which is no fault of the plugin's."""

    def __iter__(self) -> Iterator[Any]:
        contexts = iter(self._sample)
        while True:
            try:
                context = next(contexts)
            except StopIteration:
                return
            except Exception as error:
                self.error = error
                raise
            before = Untouched(context)
            yield context
            require(self._entry, before.problem())


def _fitted_on_contexts(entry: Entry, plain: Any) -> dict[str, Any]:
    """An objective's ``fit``, watched."""

    def fit(objective: Any, sample: Iterable[Any]) -> None:
        watched = _WatchedSample(entry, sample)
        before = Untouched({})
        try:
            with blamed(entry):
                plain.fit(objective, watched)
        except MtkdError:
            if watched.error is not None:
                raise watched.error from None
            raise
        require(entry, before.problem())

    return {"fit": fit}


class _Objective(StandIn):
    needs: frozenset[str]

    def __init__(
        self,
        entry: Entry,
        inner: Any,
        call: Callable[[Any, Any], Tensor],
        counts: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(entry, inner)
        self._call = call
        if counts is not None:
            self.count = counts

    def __call__(self, ctx: Any) -> Tensor:
        return self._call(self._inner, ctx)


def _counts(entry: Entry, objective: Any) -> Callable[[Any], Any] | None:
    """Its ``count``, checked; None where it has none."""
    inner = getattr(objective, "count", None)
    if inner is None:
        return None
    if not callable(inner):
        raise entry.error(f"has count = {inner!r}; make it a method or leave it out")

    def count(places: Any) -> Any:
        before = Untouched(places)
        with blamed(entry):
            counts = inner(places)
        require(entry, answers.counts_problem(counts) or before.problem())
        return counts

    return count


def _loss_problem(loss: Tensor, ctx: Any, objective: Any) -> str:
    """What is wrong with a loss that has the right type, where it is the term's own."""
    value = loss.detach()
    moves = loss.grad_fn is not None or not torch.is_grad_enabled()
    finite, zero = torch.stack([value.isfinite(), value == 0]).tolist()
    if finite and (moves or zero):
        return ""
    if finite:
        return f"returns {float(value):.4g} without a gradient to the student"
    if not all_finite(ctx, objective):
        return ""  # training's trouble, told where it is found
    return f"returns {float(value)} though what it was given is finite"


def balancer(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory of balancers whose answers are checked."""

    def build(names: tuple[str, ...], **options: Any) -> Any:
        made = made_by(entry, factory, names, **options)
        if not callable(made):
            raise entry.error(f"makes a {type(made).__name__}, which takes no standing")

        def call(balancer: Any, standing: Standing) -> Balanced:
            before = Untouched(standing)
            with blamed(entry):
                balanced: Balanced = balancer(standing)
            problem = answers.balanced_problem(balanced, len(names))
            if problem and not all_finite(standing, made):
                return Balanced(weights=standing.weights)  # told where it is found
            require(entry, problem or before.problem())
            return balanced

        if isinstance(made, nn.Module):
            return guarded_module(made, call)
        return _Balancer(entry, made, call)

    build.needs = getattr(factory, "needs", frozenset())  # type: ignore[attr-defined]
    return build


def selector(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory of selectors whose answers are checked."""

    def build(teachers: Any, domains: Any, **options: Any) -> Any:
        made = made_by(entry, factory, teachers, domains, **options)
        if not callable(made):
            raise entry.error(f"makes a {type(made).__name__}, which weighs no places")
        with blamed(entry):
            selector_needs(made)

        def call(selector: Any, candidates: Candidates) -> Tensor:
            before = Untouched(candidates)
            with blamed(entry):
                weights: Tensor = selector(candidates)
            problem = answers.selected_problem(weights, candidates.known)
            require(entry, problem or before.problem())
            return weights

        plain: Any = getattr(type(made), "note", None)

        def noted(selector: Any, candidates: Candidates) -> None:
            with blamed(entry):
                plain(selector, candidates)

        if isinstance(made, nn.Module):
            return guarded_module(made, call, {"note": noted} if plain else {})
        return _Selector(entry, made, call)

    return build


class _Selector(StandIn):
    def __init__(self, entry: Entry, inner: Any, call: Callable[..., Tensor]) -> None:
        super().__init__(entry, inner)
        self._call = call

    def __call__(self, candidates: Candidates) -> Tensor:
        return self._call(self._inner, candidates)


class _Balancer(StandIn):
    def __init__(self, entry: Entry, inner: Any, call: Callable[..., Balanced]) -> None:
        super().__init__(entry, inner)
        self._call = call

    def __call__(self, standing: Standing) -> Balanced:
        return self._call(self._inner, standing)
