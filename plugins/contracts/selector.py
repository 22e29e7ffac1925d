"""Contract of selectors: texts of two domains, two teachers, one of them half known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fuse.signals import DOMAIN, FORETOLD, LOG_PROB, SIGNALS, Signals
from plugins.answers import selected_problem
from plugins.options import options_of
from plugins.promise import Promise, problem
from plugins.seeds import chance
from plugins.untouched import Untouched
from student.select.candidates import Candidates, Selector, selector_needs

CALLS = 20
"""How often one selector is asked, since some faults begin late."""
_TEACHERS, _DOMAINS = ("teacher-0", "teacher-1"), ("code", "prose")
_TEXTS, _TOKENS = 4, 9
_SHAPES = {"cost": (2,), "agreement": (_TEXTS, _TOKENS)}
"""Of signals that are neither the student's nor one a teacher and place."""


def selector(factory: Callable[..., Selector]) -> Iterator[Promise]:
    """A selector is tried on texts of which some places are known to nobody."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


def candidates(
    needs: frozenset[str] = SIGNALS, *, step: int = 0, known: bool = True
) -> Candidates:
    """Places of a pass, as training would hand them over.

    Args:
        needs: which signals are filled.
        step: of the phase; another one, other signals.
        known: whether anybody knows any signal.
    """
    draw = torch.Generator().manual_seed(step)
    fields: dict[str, Any] = {}
    for name in sorted(SIGNALS - {DOMAIN}):
        shape = _SHAPES.get(name, (_TEXTS, _TOKENS, len(_TEACHERS)))
        if name.startswith("student_"):
            shape = (_TEXTS, _TOKENS)
        value = 5 * torch.rand(shape, generator=draw)
        if name.endswith("log_prob") or name == FORETOLD:
            value = -value
        if name.endswith("max_prob") or name in ("agreement", "kv_fit"):
            value = value / 5
        if len(shape) > 1:
            value[torch.rand(shape, generator=draw) < (0.3 if known else 1.0)] = (
                torch.nan
            )
        if name in needs:
            fields[name] = value
    if FORETOLD in needs:
        fields["ends"] = ~fields[FORETOLD].isnan().any(-1)
    if LOG_PROB in needs:
        fields["widths"] = torch.ones(_TEXTS, _TOKENS)
    there = torch.rand(_TEXTS, _TOKENS, len(_TEACHERS), generator=draw) < 0.8
    signals = Signals(
        teachers=_TEACHERS, domains=["prose", "code", "prose", "code"], **fields
    )
    return Candidates(signals=signals, known=there, step=step)


def some_texts(every: Candidates, texts: slice) -> Candidates:
    """Of a pass with some of its texts alone."""
    signals = every.signals
    cut = {
        name: value[texts]
        for name, value in _values(signals).items()
        if name not in ("teachers", "cost")
    }
    return replace(every, signals=replace(signals, **cut), known=every.known[texts])


def _values(signals: Signals) -> dict[str, Any]:
    every = {f.name: getattr(signals, f.name) for f in dataclasses.fields(signals)}
    return {name: value for name, value in every.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, tried one promise at a time."""

    factory: Callable[..., Selector]

    def made(self) -> Selector:
        before = Untouched({})
        made = self.factory(_TEACHERS, _DOMAINS)
        changed = before.problem()
        if changed:
            raise RuntimeError(changed)
        return made

    def needs(self) -> str:
        selector_needs(self.made())
        return ""

    def options(self) -> str:
        fields = dataclasses.fields(options_of(self.factory))
        taken = {"use", "on"} & {field.name for field in fields}
        if taken:
            return f"has an option {taken.pop()!r}, which is a config's own"
        defaults = {f.name: f.default_factory() for f in fields}  # type: ignore[misc, operator]
        if not fields:
            return ""
        self.factory(_TEACHERS, _DOMAINS, **defaults)
        try:
            self.factory(_TEACHERS, _DOMAINS, **defaults, no_such_option=0)
        except TypeError:
            return ""
        return "takes an option that it has not, no_such_option, without a word"

    def weighs(self) -> str:
        made = self.made()
        return self._asked(made, self._given(made))

    def unknown(self) -> str:
        made = self.made()
        return self._asked(made, self._given(made, known=False))

    def alone(self) -> str:
        made = self._seasoned()
        every = self._given(made, step=3)
        whole = made(every)
        texts = [some_texts(every, slice(b, b + 1)) for b in range(_TEXTS)]
        apart = torch.cat([made(text) for text in texts])
        return problem(
            not torch.allclose(whole, apart),
            "weighs a place otherwise where other texts share its pass; compare with "
            "what is remembered of earlier steps, by a method note",
        )

    def from_the_next_step(self) -> str:
        made = self._seasoned()
        given = self._given(made, step=3)
        before = made(given)
        _note(made, given)
        return problem(
            not torch.allclose(before, made(given)),
            "weighs a pass by what it has noted of the same step; passes of one step "
            "have to be weighed alike",
        )

    def cut(self) -> str:
        whole, parts = self.made(), self.made()
        for step in range(3):
            every = self._given(whole, step=step)
            _note(whole, every)
            for b in range(0, _TEXTS, 2):
                _note(parts, some_texts(every, slice(b, b + 2)))
        given = self._given(whole, step=3)
        return problem(
            not torch.allclose(whole(given), parts(given)),
            "remembers otherwise where a step is cut into several passes",
        )

    def over_processes(self) -> str:
        weights = []
        for count in (1, 2):
            made = self.made()
            for step in range(3):
                every = self._given(made, step=step)
                mine = some_texts(every, slice(0, _TEXTS, count))
                theirs = some_texts(every, slice(1, _TEXTS, 2))
                if count == 2:
                    mine = replace(mine, over_processes=_with(self.made, theirs))
                _note(made, mine)
            weights.append(made(self._given(made, step=3)))
        return problem(
            not torch.allclose(weights[0], weights[1]),
            "remembers only what its own process has seen; add up by over_processes",
        )

    def untouched(self) -> str:
        made = self.made()
        given = self._given(made)
        before = Untouched(given, whole=True)
        made(given)
        _note(made, given)
        return before.problem()

    def learns_nothing(self) -> str:
        made = self.made()
        learns = isinstance(made, nn.Module) and any(
            p.requires_grad for p in made.parameters()
        )
        return problem(learns, "has parameters that learn, and nothing trains them")

    def often(self) -> str:
        made = self.made()
        for call in range(CALLS):
            given = self._given(made, step=call, known=call % 3 != 1)
            wrong = self._asked(made, given)
            if wrong:
                return f"{wrong} (call {call + 1}, step {call})"
            _note(made, given)
        return ""

    def resumed(self) -> str:
        made, again = self._seasoned(), self.made()
        if isinstance(made, nn.Module) and isinstance(again, nn.Module):
            again.load_state_dict(made.state_dict())
        given, weights = self._given(made, step=3), []
        for each, seed in ((made, 9), (again, 10)):
            with chance(seed):
                weights.append(each(given))
        return problem(
            not torch.equal(weights[0], weights[1]),
            "weighs otherwise where it is built anew and given its state; keep what it "
            "remembers in buffers, and draw nothing",
        )

    def _seasoned(self) -> Selector:
        """One that has noted some steps."""
        made = self.made()
        for step in range(3):
            given = self._given(made, step=step)
            made(given)
            _note(made, given)
        return made

    def _given(self, made: Selector, **facts: Any) -> Candidates:
        """As a run fills it for this selector alone."""
        return candidates(selector_needs(made), **facts)

    def _asked(self, made: Selector, given: Candidates) -> str:
        before = Untouched(given)
        weights = made(given)
        return selected_problem(weights, given.known) or before.problem()


def _note(made: Selector, given: Candidates) -> None:
    note = getattr(made, "note", None)
    if note is not None:
        note(given)


def _with(make: Callable[[], Selector], theirs: Candidates) -> Any:
    """Adds what another process has of the same call."""
    calls: list[list[float]] = []
    _note(make(), replace(theirs, over_processes=_kept_in(calls)))
    waiting = iter(calls)

    def total(mine: Any) -> list[float]:
        return [a + b for a, b in zip(mine, next(waiting), strict=True)]

    return total


def _kept_in(calls: list[list[float]]) -> Any:
    def total(numbers: Any) -> list[float]:
        calls.append(list(numbers))
        return list(numbers)

    return total


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("says what it needs", _Subject.needs),
    ("takes its own options by name, and no others", _Subject.options),
    ("gives every place, or every teacher there, one weight >= 0", _Subject.weighs),
    ("does so where nobody knows anything", _Subject.unknown),
    ("weighs a place whatever shares its pass", _Subject.alone),
    ("weighs all passes of a step alike", _Subject.from_the_next_step),
    ("remembers a step however it is cut into passes", _Subject.cut),
    ("remembers what all processes have seen", _Subject.over_processes),
    ("leaves its input as it was", _Subject.untouched),
    ("learns nothing", _Subject.learns_nothing),
    ("keeps all this call after call", _Subject.often),
    ("remembers nothing that a resumed run would not know", _Subject.resumed),
)
