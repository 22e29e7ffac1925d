"""Contract of projectors: to wider teachers, narrower ones and equal ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from align.calibration import CalibrationStats
from plugins.answers import projection_problem
from plugins.options import options_of
from plugins.promise import Promise, unreached
from plugins.seeds import chance
from plugins.untouched import Untouched
from student.bridges.base import PairStats

CALLS = 30
"""How often one projector is asked, since some faults begin late."""
_WIDTHS = ((20, 24), (24, 20), (20, 20))
"""Of student and teacher."""
_LAYERS = 2


def projector(factory: Callable[..., Any]) -> Iterator[Promise]:
    """A projector is tried as it is made, after it was fitted, and after a step."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, tried one promise at a time."""

    factory: Callable[..., Any]

    def each(self) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Modules with the student's and the teacher's features of three texts."""
        for widths in _WIDTHS:
            with chance(0):
                made = self.factory(*widths, _LAYERS)
            if not isinstance(made, nn.Module):
                raise TypeError(f"makes a {type(made).__name__}, not a torch.nn.Module")
            yield made, *_features(widths)

    def options(self) -> str:
        fields = dataclasses.fields(options_of(self.factory))
        if "use" in {field.name for field in fields}:
            return "has an option 'use', by which a config names it"
        if not fields:
            return ""
        defaults = {f.name: f.default_factory() for f in fields}  # type: ignore[misc, operator]
        self.factory(*_WIDTHS[0], _LAYERS, **defaults)
        try:
            self.factory(*_WIDTHS[0], _LAYERS, no_such_option=0)
        except TypeError:
            return ""
        return "takes an option that it has not, no_such_option, without a word"

    def shape(self) -> str:
        for made, x, y in self.each():
            wrong = _problem(made, x, y)
            if wrong:
                return f"{wrong}, from {x.shape[-1]} to {y.shape[-1]}"
        return ""

    def still(self) -> str:
        for made, _, y in self.each():
            target = _target(made, y)
            if target.requires_grad:
                return "the teacher's side has a gradient, and would shrink"
            _move(made)
            if not torch.equal(target, _target(made, y)):
                return "the teacher's side moves while it learns"
        return ""

    def learns(self) -> str:
        for made, x, y in self.each():
            x = x.requires_grad_()
            (made(x) - _target(made, y)).square().mean().backward()
            if x.grad is None or not bool((x.grad != 0).any()):
                return "nothing of the student moves"
            if idle := unreached(made):
                return idle
        return ""

    def alone(self) -> str:
        for made, x, _ in self.each():
            whole, part = made(x), made(x[:, :1, 2:5])
            if not torch.allclose(whole[:, :1, 2:5], part, rtol=1e-3, atol=1e-5):
                return "maps a token otherwise in another batch"
        return ""

    def extremes(self) -> str:
        for made, x, y in self.each():
            for change in (torch.zeros_like, lambda x: 300 * x, lambda x: x.double()):
                wrong = _problem(made, change(x), change(y))
                if wrong:
                    return wrong
        return ""

    def fitted(self) -> str:
        for widths, (made, x, y) in zip(_WIDTHS, self.each(), strict=True):
            if not hasattr(made, "fit"):
                return ""
            stats = _statistics(widths)
            before = Untouched(stats, whole=True)
            made.fit(stats)
            wrong = before.problem() or _problem(made, x, y)
            if wrong:
                return f"after fit, {wrong}"
            target = _target(made, y)
            far, none = (
                float((side - target).square().mean().detach())
                for side in (made(x), torch.zeros_like(target))
            )
            if far > none:
                return (
                    f"after fit it is {far:.3g} from the teacher, and nothing at all "
                    f"would be {none:.3g}"
                )
        return ""

    def state(self) -> str:
        for widths, (made, x, y) in zip(_WIDTHS, self.each(), strict=True):
            if hasattr(made, "fit"):
                made.fit(_statistics(widths))
            _move(made)
            again = self.factory(*widths, _LAYERS)
            again.load_state_dict(made.state_dict())
            same = torch.equal(made(x), again(x)) and torch.equal(
                _target(made, y), _target(again, y)
            )
            if not same:
                return "is another where it is built anew and given its state"
        return ""

    def often(self) -> str:
        made, x, y = next(self.each())
        first = made(x).detach()
        for call in range(CALLS):
            given = (x, y) if call % 2 else (x[:, :1, :3], y[:, :1, :3])
            before = Untouched(given, whole=True)
            wrong = _problem(made, *given) or before.problem()
            if not wrong and not torch.allclose(made(x), first, rtol=1e-3, atol=1e-5):
                wrong = "maps the same features otherwise"
            if wrong:
                return f"{wrong} (call {call + 1})"
        return ""


def _features(widths: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(L, B, T, C) of the student and of a teacher that can be told from it."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(_LAYERS, 3, 40, widths[0], generator=generator)
    mix = torch.randn(_LAYERS, 1, *widths, generator=torch.Generator().manual_seed(2))
    return x, x @ mix / widths[0] ** 0.5


def _statistics(widths: tuple[int, int]) -> PairStats:
    """Of such features, one channel of each side constant."""
    pair = PairStats(
        CalibrationStats(_LAYERS, widths[1], widths[0]),
        CalibrationStats(_LAYERS, widths[0], widths[1]),
    )
    x, y = (side.flatten(1, 2).clone() for side in _features(widths))
    x[..., -1], y[..., -1] = 0.0, 0.0
    pair.to_student.update(y, x)
    pair.to_teacher.update(x, y)
    return pair


def _target(made: Any, y: Tensor) -> Tensor:
    """The teacher's side, as it is compared."""
    target: Tensor = made.target(y) if hasattr(made, "target") else y
    return target


def _problem(made: Any, x: Tensor, y: Tensor) -> str:
    target = _target(made, y)
    wrong = projection_problem(target, y, target.shape[-1])
    if wrong:
        return f"of the teacher's side {wrong}"
    return projection_problem(made(x), x, target.shape[-1])


def _move(made: Any) -> None:
    """Give its parameters other values, as a step would."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.01)


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("is a module that maps to the teacher's width", _Subject.shape),
    ("takes its own options by name, and no others", _Subject.options),
    ("the teacher's side stands still", _Subject.still),
    ("the student moves, and whatever learns gets a gradient", _Subject.learns),
    ("maps each token by itself", _Subject.alone),
    ("is finite for features that are 0, large or wide", _Subject.extremes),
    ("what fits finds weights that are of use", _Subject.fitted),
    ("its state is all that it knows", _Subject.state),
    ("keeps all this call after call, its input as it was", _Subject.often),
)
