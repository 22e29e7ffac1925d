"""Contract of objectives: small steps of training, asked many times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from plugins.answers import loss_problem
from plugins.contracts.step import one_text, step_context, step_places
from plugins.options import options_of
from plugins.promise import Promise, problem, unreached
from plugins.seeds import chance
from plugins.untouched import Untouched
from student.objective import (
    ATTENTION,
    HEADS,
    NEEDS,
    OUTPUTS,
    RELATIONS,
    Compared,
    Comparison,
    Objective,
    StepContext,
    count_of,
    wants_sample,
)

CALLS = 24
"""How often one objective is asked, since some faults begin late."""


def objective(factory: Callable[..., Objective]) -> Iterator[Promise]:
    """An objective is tried on two teachers, one of them half uncovered, in the
    student's space and in the teachers' own."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


class _Sample:
    """Three batches as a term is fitted on, which it may pass over as often as it
    likes, and whether it left them alone."""

    def __init__(self, needs: frozenset[str], *, covered: bool = True) -> None:
        self._needs, self._covered = needs, covered
        self._changed = ""

    def __iter__(self) -> Iterator[StepContext]:
        for size in (None, 20, 7):
            context = step_context(covered=self._covered, size=size, grad=False)[0]
            context = _declared(context, self._needs)
            before = Untouched(context, whole=True)
            yield context
            self._changed = self._changed or before.problem()

    def problem(self) -> str:
        """What a term changed in it."""
        return self._changed


def _fit_problem(term: nn.Module) -> str:
    """What is wrong with a module that was fitted."""
    for name, value in (*term.named_parameters(), *term.named_buffers()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"leaves {name} not finite"
        if value.grad_fn is not None:
            return f"leaves {name} with a history; detach it"
    return ""


def _declared(context: StepContext, needs: frozenset[str]) -> StepContext:
    """The context as a run fills it for this objective alone."""
    return replace(
        context,
        attention=context.attention if ATTENTION in needs else (),
        heads=context.heads if HEADS in needs else (),
        relations=context.relations if RELATIONS in needs else (),
        inside={kind: sides for kind, sides in context.inside.items() if kind in needs},
        own={kind: x for kind, x in context.own.items() if kind in needs},
        outputs=context.outputs if OUTPUTS in needs else None,
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, tried one promise at a time."""

    factory: Callable[..., Objective]

    def options(self) -> str:
        fields = dataclasses.fields(options_of(self.factory))
        for name in {"use", "weight"} & {field.name for field in fields}:
            return f"has an option {name!r}, which a config says of every term"
        defaults = {f.name: f.default_factory() for f in fields}  # type: ignore[misc, operator]
        if not fields:
            return ""
        self.factory(**defaults)
        try:
            self.factory(**defaults, no_such_option=0)
        except TypeError:
            return ""
        return "takes an option that it has not, no_such_option, without a word"

    def made(self) -> tuple[Objective, frozenset[str]]:
        before = Untouched({})
        term = self.factory()
        changed = before.problem()
        if changed:
            raise RuntimeError(changed)
        asked = frozenset(getattr(term, "needs", ()))
        if wants_sample(term) and isinstance(term, nn.Module):
            with chance(0):
                term.fit(_Sample(asked))
        return term, asked

    def needs(self) -> str:
        declared_needs = getattr(self.factory(), "needs", None)
        good = isinstance(declared_needs, frozenset) and declared_needs <= NEEDS
        return problem(
            not good, f"needs is {declared_needs!r}; give a frozenset of {set(NEEDS)}"
        )

    def scalar(self) -> str:
        for projected in (False, True):
            term, asked = self.made()
            value = term(_declared(step_context(projected=projected)[0], asked))
            wrong = loss_problem(value) or problem(not value.isfinite(), f"is {value}")
            if wrong:
                return wrong
        return ""

    def moves(self) -> str:
        for projected in (False, True):
            term, asked = self.made()
            context, student, _ = step_context(projected=projected)
            value = term(_declared(context, asked))
            if not value.requires_grad:
                return "has no gradient"
            early = [x for x in student if x.grad is not None]
            if early:
                return "runs a backward pass of its own"
            value.backward()
            gradients = [x.grad for x in student if x.grad is not None]
            if not any(bool((g != 0).any()) for g in gradients):
                return "nothing of the student moves"
            if not all(bool(g.isfinite().all()) for g in gradients):
                return "a gradient is not finite"
        return ""

    def says_all(self) -> str:
        term, asked = self.made()
        context = step_context()[0]
        with chance(0):
            whole = term(context)
        with chance(0):
            part = term(_declared(context, asked))
        same = torch.allclose(whole, part, equal_nan=True)
        return problem(
            not same,
            f"gives {float(whole.detach()):.4g} with everything and "
            f"{float(part.detach()):.4g} with what it says it needs, {sorted(asked)}",
        )

    def uncovered(self) -> str:
        value = self.made()[0](step_context(covered=False)[0])
        return problem(not value.isfinite(), f"gives {value.item()} without coverage")

    def without_teachers(self) -> str:
        value = self.made()[0](step_context(teachers=False)[0])
        return problem(not value.isfinite(), f"gives {value.item()} without teachers")

    def untouched(self) -> str:
        context, _, targets = step_context()
        term = self.made()[0]
        before = Untouched((context, targets), whole=True)
        term(context)
        changed = before.problem()
        return changed.replace("0.", "", 1).replace("1.", "target ", 1)

    def fitted(self) -> str:
        term = self.factory()
        if not wants_sample(term):
            return ""
        asked = frozenset(getattr(term, "needs", ()))
        states = []
        for covered in (True, True, False):
            term = self.factory()
            if not wants_sample(term) or not isinstance(term, nn.Module):
                return "has fit and is no module, so that nothing would be saved"
            sample = _Sample(asked, covered=covered)
            with chance(0):
                term.fit(sample)
            wrong = sample.problem() or _fit_problem(term)
            if not wrong and not term(_declared(step_context()[0], asked)).isfinite():
                wrong = "is not finite after it"
            if wrong:
                return wrong if covered else f"{wrong}, where nothing is covered"
            states.append(term.state_dict())
        first, again, _ = states
        other = first.keys() ^ again.keys() or {
            name for name, value in first.items() if not torch.equal(value, again[name])
        }
        return problem(
            other, f"finds another {min(other, default='')} in the same sample"
        )

    def often(self) -> str:
        term, asked = self.made()
        contexts = [
            _declared(step_context(size=size, step=step)[0], asked)
            for step, size in enumerate((None, 20, 120))
        ]
        for call in range(CALLS):
            context = contexts[2 if call == CALLS // 2 else call % 2]
            context = replace(context, step=2**call - 1)
            before = Untouched(context)
            value = term(context)
            wrong = loss_problem(value) or before.problem()
            if not wrong and not value.isfinite():
                wrong = f"returns {float(value.detach())}"
            if not wrong and value.grad_fn is None:
                wrong = "returns a value without a gradient"
            if not wrong and frozenset(term.needs) != asked:
                wrong = f"needs {sorted(term.needs)} after {sorted(asked)}"
            if wrong:
                tokens = context.batch.ids.shape[1]
                return (
                    f"{wrong} (call {call + 1}, step {context.step}, {tokens} tokens)"
                )
        return ""

    def learns(self) -> str:
        term, asked = self.made()
        if not isinstance(term, nn.Module):
            return ""
        term(_declared(step_context()[0], asked)).backward()
        return unreached(term)

    def extremes(self) -> str:
        for change in (lambda x: 300 * x, lambda x: x.bfloat16()):
            term, asked = self.made()
            context, student, _ = step_context()
            context = replace(
                context, comparisons=[_each(c, change) for c in context.comparisons]
            )
            value = term(_declared(context, asked))
            if not value.isfinite():
                return f"gives {float(value.detach())}"
            value.backward()
            if not all(
                bool(x.grad.isfinite().all()) for x in student if x.grad is not None
            ):
                return "a gradient is not finite"
        return ""

    def alone(self) -> str:
        term, asked = self.made()
        if asked:
            return ""  # what else it reads is tried in whole batches
        values = []
        for size in (1, 2):
            with chance(0):
                values.append(float(term(one_text(size)).detach()))
        same = math.isclose(*values, rel_tol=1e-4, abs_tol=1e-6)
        return problem(
            not same,
            f"gives {values[0]:.6g} for one text, and {values[1]:.6g} where a row of "
            "padding stands below it",
        )

    def resumed(self) -> str:
        with chance(0):
            term, asked = self.made()
        for step, size in enumerate((None, 20, 7)):
            with chance(1 + step):
                term(_declared(step_context(size=size, step=step)[0], asked))
        with chance(0):
            again, _ = self.made()  # a run fits again before it takes the state
        if isinstance(term, nn.Module) and isinstance(again, nn.Module):
            again.load_state_dict(term.state_dict())
        context = _declared(step_context(size=9, step=3)[0], asked)
        values = []
        for either in (term, again):
            with chance(9):
                values.append(float(either(context).detach()))
        far = not math.isclose(*values, rel_tol=1e-4, abs_tol=1e-6)
        return problem(
            far,
            f"gives {values[0]:.6g} after other steps, and {values[1]:.6g} where it is "
            "built anew and given its state; keep what it remembers in buffers",
        )

    def counted(self) -> str:
        term = self.made()[0]
        count = count_of(term)
        if count is None:
            return ""
        context = step_context()[0]
        counts = tuple(count(step_places(context)))
        if not counts or not all(0 <= x < math.inf for x in counts):
            return f"count gives {counts}; give numbers >= 0"
        values = []
        for n in (1, 2):
            with chance(0):
                value = term(replace(context, totals=tuple(n * x for x in counts)))
            values.append(float(value.detach()))
        once, twice = values
        far = abs(once - 2 * twice) > 1e-4 * abs(once) + 1e-6
        if far:
            return (
                f"gives {once}, and {twice} where the step's counts are twice as large"
            )
        with chance(0):
            alone = float(term(context).detach())
        same = math.isclose(once, alone, rel_tol=1e-4, abs_tol=1e-6)
        return problem(
            not same,
            f"gives {alone} for a pass that is all of its step, counted {once}",
        )


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("says what it needs", _Subject.needs),
    ("takes its own options by name, and no others", _Subject.options),
    ("is fitted on a sample that it leaves as it was, if it has fit", _Subject.fitted),
    ("divides by the step's counts, if it counts", _Subject.counted),
    ("is a finite scalar", _Subject.scalar),
    ("moves the student", _Subject.moves),
    ("reads only what it says it needs", _Subject.says_all),
    ("is finite where nothing is covered", _Subject.uncovered),
    ("is finite without teachers", _Subject.without_teachers),
    ("leaves its input as it was", _Subject.untouched),
    ("is finite for large keys and narrow ones", _Subject.extremes),
    ("padding weighs nothing, nor does its row", _Subject.alone),
    ("whatever learns in it gets a gradient", _Subject.learns),
    ("keeps all this call after call", _Subject.often),
    ("remembers nothing that a resumed run would not know", _Subject.resumed),
)


def _each(comparison: Compared, change: Callable[[Tensor], Tensor]) -> Comparison:
    """Other predictions and targets."""
    return Comparison(
        name=comparison.name,
        pred_k=change(comparison.pred_k),
        pred_v=change(comparison.pred_v),
        target_k=change(comparison.target_k),
        target_v=change(comparison.target_v),
        weight=comparison.weight,
    )
