"""Strangers' code while it runs: what it answers is checked, what it raises is named.

A guard stands in for what a plugin offers and looks like it: modules stay the modules
that they are (parameters, state, ``to``), other objects keep their attributes. Every
answer is checked by :mod:`plugins.answers`, and what was handed over by
:mod:`plugins.untouched`; the cost is some small operations a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from align.causality import CausalityError, check_causal
from align.errors import MtkdError
from align.time_align import Alignment
from align.tokens import TokenBatch
from plugins import answers
from plugins.contract_router import company_counts
from plugins.entry import Entry
from plugins.errors import PluginCrashError, PluginError
from plugins.untouched import Untouched, tensors_of
from student.output.temperature import Moment


def guard(entry: Entry, offered: Any) -> Any:
    """Stand in for what a plugin offers.

    Args:
        entry: whose it is; decides the kind.
        offered: the factory or function; a mapping is handed back as it is.
    """
    made = _GUARDS.get(entry.kind)
    return offered if made is None else made(entry, offered)


@contextmanager
def blamed(entry: Entry) -> Iterator[None]:
    """Name the plugin in whatever is raised inside.

    Raises:
        PluginError: it refused something itself, with an error of the project's.
        PluginCrashError: anything else; the cause is its exception.
    """
    try:
        yield
    except PluginError as error:
        if error.name is not None:
            raise
        raise entry.error(str(error)) from error
    except MtkdError as error:
        raise entry.error(str(error)) from error
    except Exception as error:
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        raise entry.error(told, PluginCrashError) from error


def _require(entry: Entry, problem: str) -> None:
    if problem:
        raise entry.error(problem)


def _made(entry: Entry, factory: Callable[..., Any], *sizes: int) -> Any:
    """What a factory makes, the process left as it was."""
    before = Untouched({})
    with blamed(entry):
        made = factory(*sizes)
    _require(entry, before.problem())
    return made


class _Seldom:
    """True at the first call, the second, the fourth, the eighth, and so on."""

    def __init__(self) -> None:
        self._calls = 0

    def now(self) -> bool:
        self._calls += 1
        return self._calls & (self._calls - 1) == 0


def _partitioned(module: nn.Module) -> bool:
    """Whether processes hold parts of it, who must all ask equally often."""
    return any(hasattr(p, "ds_id") for p in module.parameters())


class _Stand:
    """In place of an object that is no module; attributes are its own."""

    def __init__(self, entry: Entry, inner: Any) -> None:
        self._entry, self._inner = entry, inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_entry", "_inner"):
            raise AttributeError(name)
        return getattr(self._inner, name)


class _Aligner(_Stand):
    def __init__(self, entry: Entry, inner: Any) -> None:
        super().__init__(entry, inner)
        causal = getattr(inner, "causal", None)
        if not isinstance(causal, bool):
            raise entry.error(f"has causal = {causal!r}; say True or False")
        self.causal: bool = causal
        self._seldom = _Seldom()

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Any:
        before = Untouched({"student": student, "teacher": teacher}, whole=True)
        with blamed(self._entry):
            found = self._inner(student, teacher)
        _require(
            self._entry,
            answers.alignment_problem(found, student, teacher) or before.problem(),
        )
        if self.causal:
            try:
                check_causal(found, student, teacher)
            except CausalityError as error:
                raise self._entry.error(f"says causal = True, but {error}") from error
        if self._seldom.now():
            self._try_alone(found, student, teacher)
        # A copy: an aligner that fills the same tensors again would change batches
        # that wait to be trained on.
        shared = None if found.shared is None else found.shared.clone()
        return replace(
            found,
            rows=found.rows.clone(),
            cols=found.cols.clone(),
            weights=found.weights.clone(),
            shared=shared,
        )

    def _try_alone(
        self, found: Alignment, student: TokenBatch, teacher: TokenBatch
    ) -> None:
        """See that the first text is aligned as it is without the others."""
        alone = _first_text(student), _first_text(teacher)
        with blamed(self._entry):
            again = self._inner(*alone)
        problem = answers.alignment_problem(again, *alone)
        first = found.rows < student.ids.shape[1]
        if not problem and not (
            torch.equal(found.rows[first], again.rows)
            and torch.equal(found.cols[first], again.cols)
            and torch.allclose(found.weights[first], again.weights, atol=1e-4)
        ):
            problem = "aligns a text otherwise in another batch"
        _require(self._entry, problem)


def _first_text(batch: TokenBatch) -> TokenBatch:
    return TokenBatch(batch.ids[:1], batch.mask[:1], batch.spans[:1], batch.texts[:1])


class _LayerMap(_Stand):
    def __call__(self, teacher: int, student: int, *sample: Any) -> Any:
        before = Untouched({"the sample": sample})
        with blamed(self._entry):
            found = self._inner(teacher, student, *sample)
        _require(
            self._entry,
            answers.layer_map_problem(found, teacher, student) or before.problem(),
        )
        return found


class _Adapter(_Stand):
    def __call__(self, stats: Any) -> tuple[Tensor, Tensor]:
        before = Untouched(stats)
        with blamed(self._entry):
            found = self._inner(stats)
        _require(self._entry, answers.adapter_problem(found, stats) or before.problem())
        weight, bias = found
        return weight.detach().clone(), bias.detach().clone()


class _RopeScaler(_Stand):
    def __call__(self, base: float, dim: int, scale: float) -> float:
        before = Untouched({})
        with blamed(self._entry):
            found = self._inner(base, dim, scale)
        _require(
            self._entry, answers.base_problem(found, base, scale) or before.problem()
        )
        return float(found)


class _Temperature(_Stand):
    def __call__(self, moment: Moment) -> float | Tensor:
        tokens: list[int] = []

        def entropy() -> Tensor:
            found = moment.teacher_entropy()
            tokens.append(len(found))
            return found

        before = Untouched({})
        with blamed(self._entry):
            found = self._inner(replace(moment, teacher_entropy=entropy))
        if isinstance(found, Tensor) and found.dim() and not tokens:
            entropy()
        _require(
            self._entry,
            answers.temperature_problem(found, tokens[0] if tokens else None)
            or before.problem(),
        )
        return found.detach().float() if isinstance(found, Tensor) else float(found)


def _router(entry: Entry, factory: Callable[[int, int], Any]) -> Callable[..., Any]:
    def build(hidden_dim: int, num_teachers: int) -> nn.Module:
        made = _made(entry, factory, hidden_dim, num_teachers)
        if not isinstance(made, nn.Module):
            raise entry.error(
                f"makes a {type(made).__name__}; a router is a torch.nn.Module"
            )

        seldom = _Seldom()

        def call(router: Any, query: Tensor) -> Tensor:
            before = Untouched({"the query": query})
            with blamed(entry):
                found = router(query)
            problem = answers.weights_problem(found, query, num_teachers)
            if problem and not _finite(query, made):
                return found  # training's trouble, told where it is found
            problem = problem or before.problem()
            if not problem and seldom.now() and not _partitioned(made):
                with blamed(entry):
                    if company_counts(router, query):
                        problem = "gives a row other weights in another batch"
            _require(entry, problem)
            learns = any(p.requires_grad for p in made.parameters())
            if learns and torch.is_grad_enabled() and found.grad_fn is None:
                raise entry.error(
                    "returns weights without a gradient to its parameters"
                )
            return found

        return _guarded_module(made, call)

    return build


def _objective(entry: Entry, factory: Callable[[], Any]) -> Callable[[], Any]:
    def build() -> Any:
        from student.objective import ATTENTION, OUTPUTS, RELATIONS

        made = _made(entry, factory)
        needs = getattr(made, "needs", None)
        known = (ATTENTION, RELATIONS, OUTPUTS)
        if not isinstance(needs, frozenset) or not needs <= set(known):
            raise entry.error(
                f"has needs = {needs!r}; give a frozenset of any of {', '.join(known)}"
            )
        if not callable(made):
            raise entry.error(f"makes a {type(made).__name__}, which takes no context")

        def call(objective: Any, ctx: Any) -> Tensor:
            before, lazy = Untouched(ctx), _Lazy(ctx)
            with blamed(entry):
                found = objective(ctx)
            problem = answers.loss_problem(found) or before.problem()
            lazy.forget()
            _require(entry, problem or _loss_problem(found, ctx, made))
            return found

        counts = _counts(entry, made)
        if isinstance(made, nn.Module):
            return _guarded_module(made, call, counts, {"needs": needs})
        stand = _Objective(entry, made, call, counts)
        stand.needs = needs  # what it says once
        return stand

    return build


class _Objective(_Stand):
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
            found = inner(places)
        _require(entry, answers.counts_problem(found) or before.problem())
        return found

    return count


class _Lazy:
    """Targets that a comparison makes when they are asked for.

    Nobody can tell whether a stranger changed one that was made for it, so the next
    reader gets its own.
    """

    def __init__(self, ctx: Any) -> None:
        held = [getattr(c, "__dict__", {}) for c in getattr(ctx, "comparisons", ())]
        self._held = [(parts, set(parts)) for parts in held]

    def forget(self) -> None:
        for parts, before in self._held:
            for name in set(parts) - before:
                if isinstance(parts[name], Tensor) and not parts[name].requires_grad:
                    del parts[name]


def _loss_problem(found: Tensor, ctx: Any, objective: Any) -> str:
    """What is wrong with a loss that has the right type, where it is the term's own."""
    value = found.detach()
    moves = found.grad_fn is not None or not torch.is_grad_enabled()
    finite, zero = torch.stack([value.isfinite(), value == 0]).tolist()
    if finite and (moves or zero):
        return ""
    if finite:
        return f"returns {float(value):.4g} without a gradient to the student"
    if not _finite(ctx, objective):
        return ""  # training's trouble, told where it is found
    return f"returns {float(value)} though what it was given is finite"


def _finite(given: Any, module: Any) -> bool:
    """Whether all that went in is finite, parameters as well; only asked in trouble."""
    inputs = [x for _, x in tensors_of(given)]
    own = list(module.parameters()) if isinstance(module, nn.Module) else []
    return all(bool(x.isfinite().all()) for x in [*inputs, *own])


def _guarded_module(
    module: Any,
    call: Callable[[Any, Any], Tensor],
    counts: Callable[[Any], Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """The same module, whose calls go through ``call``; what is fixed stays so.

    Its class becomes a subclass that differs in ``__call__`` (``count``, ``needs``)
    alone, so that its parameters, state and name stay, and a deep copy is guarded as
    well.
    """
    plain = type(module)

    class Guarded(plain):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if len(args) != 1 or kwargs:
                return super().__call__(*args, **kwargs)
            return call(super().__call__, args[0])

    for name, value in (fixed or {}).items():
        setattr(Guarded, name, _constant(value))
    Guarded.__name__, Guarded.__qualname__ = plain.__name__, plain.__qualname__
    Guarded.__module__ = plain.__module__
    if counts is not None:
        Guarded.count = staticmethod(counts)  # type: ignore[attr-defined]
    module.__class__ = Guarded
    return module


def _constant(value: Any) -> property:
    return property(lambda _: value)


def _aligner(entry: Entry, factory: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: _Aligner(entry, _made(entry, factory))


_GUARDS: Mapping[str, Callable[[Entry, Any], Any]] = {
    "aligner": _aligner,
    "layer_map": _LayerMap,
    "adapter": _Adapter,
    "rope_scaler": _RopeScaler,
    "temperature": _Temperature,
    "router": _router,
    "objective": _objective,
}
"""By kind; a phase is data, checked when it is read."""
