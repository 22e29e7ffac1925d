"""Contract of transforms: a tiny student is transformed, trained on and exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from align.support.matrices import plain_parameters
from plugins.contracts.models.answers import attached_problem
from plugins.contracts.models.student_maker import ROWS, small_model
from plugins.promise import Promise, problem
from student.transforms import put_transformed

STRENGTHS = (0.25, 0.5, 1.0)
"""A strength for each step that is tried."""


def transform(factory: Callable[..., Any]) -> Iterator[Promise]:
    """A transform is put on a Llama of four layers with random weights."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


@dataclass(frozen=True)
class _Subject:
    """What is tried."""

    factory: Callable[..., Any]

    def student(self) -> tuple[Any, Any]:
        """A new student with a transform of its own on it, at strength 0."""
        model = _plain()
        made = self.factory()
        made.attach(model)
        return model, made

    @cached_property
    def begun(self) -> Tensor:
        """Logits without a transform."""
        return _logits(_plain())

    def trained(self) -> tuple[Any, Any]:
        """A student after some steps at growing strengths."""
        model, made = self.student()
        rate = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            for step, strength in enumerate(STRENGTHS):
                made.at(strength, step)
                rate.zero_grad()
                model(input_ids=_ids(), labels=_ids()).loss.backward()
                rate.step()
        made.at(STRENGTHS[-1], len(STRENGTHS))
        return model.eval(), made


def _keeps_parameters(subject: _Subject) -> str:
    model = _plain()
    before = dict(model.named_parameters())
    subject.factory().attach(model)
    return attached_problem(before, model)


def _nothing_at_zero(subject: _Subject) -> str:
    model, made = subject.student()
    made.at(0.0, 0)
    for training in (False, True):
        if not torch.equal(_logits(model.train(training)), subject.begun):
            return "changes logits at strength 0"
    return ""


def _nothing_again(subject: _Subject) -> str:
    model, made = subject.student()
    made.at(1.0, 0)
    _logits(model.train())
    made.at(0.0, 1)
    differs = not torch.equal(_logits(model.eval()), subject.begun)
    return problem(differs, "changes logits at strength 0, after it was at 1")


def _gradients(subject: _Subject) -> str:
    for strength in STRENGTHS:
        model, made = subject.student()
        made.at(strength, 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model.train()(input_ids=_ids(), labels=_ids()).loss.backward()
        for name, parameter in model.named_parameters():
            slope = parameter.grad
            if slope is None or not bool(slope.isfinite().all()):
                return f"leaves {name} without a finite gradient at {strength}"
    return ""


def _exported(subject: _Subject) -> str:
    model, _ = subject.trained()
    plain = _plain()
    put_transformed(model, plain)
    differs = not torch.equal(_logits(plain), _logits(model))
    return problem(differs, "computes by other weights than those that are exported")


def _remembered(subject: _Subject) -> str:
    model, _ = subject.trained()
    again, made = subject.student()
    state = model.state_dict()
    if state.keys() != again.state_dict().keys():
        return "has other parameters or buffers on another student of the same make"
    again.load_state_dict(state)
    made.recall()
    for tell in (lambda: "", lambda: made.at(STRENGTHS[-1], len(STRENGTHS))):
        tell()
        if not torch.equal(_logits(again.eval()), _logits(model)):
            return "remembers something that is no parameter and no buffer"
    return ""


def _same_again(subject: _Subject) -> str:
    (first, _), (second, _) = subject.trained(), subject.trained()
    named = plain_parameters(second)
    same = all(torch.equal(p, named[n]) for n, p in plain_parameters(first).items())
    return problem(not same, "trains another student from the same seed")


_PROMISES = (
    ("leaves parameters the objects that they are", _keeps_parameters),
    ("changes nothing at strength 0", _nothing_at_zero),
    ("changes nothing at strength 0 again", _nothing_again),
    ("lets gradients through to all that is trained", _gradients),
    ("is exported as what was trained", _exported),
    ("remembers all in parameters and buffers", _remembered),
    ("trains the same student again", _same_again),
)


def _plain() -> Any:
    return small_model().requires_grad_(True)


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    logits: Tensor = model(input_ids=_ids()).logits
    return logits


def _ids() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(ROWS, (2, 12), generator=generator)
