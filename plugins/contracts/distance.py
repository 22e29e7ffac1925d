"""Contract of distances: one student beside one teacher, asked many times."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plugins.answers import distance_problem
from plugins.options import options_of
from plugins.promise import Promise, problem
from plugins.seeds import chance
from plugins.untouched import Untouched
from student.match.distance import of_rows

CALLS = 40
"""How often one distance is asked, since some faults begin late."""
_LAYERS, _BATCH, _TOKENS, _WIDTH = 2, 3, 7, 6


def distance(factory: Callable[..., Any]) -> Iterator[Promise]:
    """A distance is tried on texts of unlike length, padded on either side."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """What a distance is asked about."""

    pred: Tensor
    target: Tensor
    weight: Tensor

    def put_to(self, made: Any) -> Any:
        """What the distance says, the process's chance beginning anew."""
        pred, target = self.pred, self.target
        if of_rows(made):
            known = (self.weight > 0)[..., None]
            pred, target = pred.softmax(-1), target.softmax(-1) * known
        with chance(0):
            return made(pred, target, self.weight)


def _given(
    made: Any, *, seed: int = 0, tokens: int = _TOKENS, width: int | None = None
) -> _Given:
    """Three texts: whole, padded before, padded behind, of a teacher of any width."""
    generator = torch.Generator().manual_seed(seed)
    if width is None:
        width = _WIDTH if made.equal_widths else _WIDTH + 3
    shape = (_LAYERS, _BATCH, tokens)
    weight = torch.rand(shape, generator=generator) + 0.5
    weight[:, 1, : tokens // 2] = 0
    weight[:, 2, (tokens + 1) // 2 :] = 0
    weight[0, 0, 0] = 0  # of one layer alone, as routers by layer may have it
    target = torch.randn(*shape, width, generator=generator)
    pred = torch.randn(*shape, _WIDTH, generator=generator)
    known = (weight > 0)[..., None]
    return _Given(pred.requires_grad_(), target * known, weight)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, tried one promise at a time."""

    factory: Callable[..., Any]

    def says(self) -> str:
        made = self.factory()
        for name in ("per_token", "equal_widths"):
            value = getattr(made, name, None)
            if not isinstance(value, bool):
                return f"{name} is {value!r}; say True or False"
        return ""

    def options(self) -> str:
        fields = dataclasses.fields(options_of(self.factory))
        if "use" in {field.name for field in fields}:
            return "has an option 'use', by which a config names it"
        if not fields:
            return ""
        self.factory(**{f.name: f.default_factory() for f in fields})  # type: ignore[misc, operator]
        try:
            self.factory(no_such_option=0)
        except TypeError:
            return ""
        return "takes an option that it has not, no_such_option, without a word"

    def shape(self) -> str:
        made = self.factory()
        for tokens in (_TOKENS, 1, 40):
            given = _given(made, tokens=tokens)
            wrong = distance_problem(given.put_to(made), given.weight, made.per_token)
            if wrong:
                return f"{wrong}, of {tokens} tokens"
        return ""

    def moves(self) -> str:
        made = self.factory()
        given = _given(made)
        given.target.requires_grad_()
        apart = given.put_to(made)
        if not apart.requires_grad:
            return "has no gradient"
        (apart * (given.weight if made.per_token else 1)).sum().backward()
        gradient = given.pred.grad
        if gradient is None or not bool((gradient != 0).any()):
            return "nothing of the student moves"
        if not bool(gradient.isfinite().all()):
            return "a gradient is not finite"
        return ""

    def nearer(self) -> str:
        made = self.factory()
        given = _given(made, width=_WIDTH)
        same = _Given(given.target, given.target, given.weight)
        near, far = (_total(x.put_to(made), x.weight) for x in (same, given))
        return problem(
            not near < far, f"the teacher itself costs {near:.4g}, a stranger {far:.4g}"
        )

    def unseen(self) -> str:
        made = self.factory()
        given = _given(made)
        silent = (given.weight == 0)[..., None]
        other = _Given(torch.where(silent, 7.0, given.pred), given.target, given.weight)
        first, second = (_weighed(x.put_to(made), x.weight) for x in (given, other))
        far = not torch.allclose(first, second, rtol=1e-4, atol=1e-5)
        return problem(far, "a token without weight changes what others cost")

    def nothing(self) -> str:
        made = self.factory()
        given = _given(made)
        for kept in (0, 1):  # tokens in all
            weight = torch.zeros_like(given.weight)
            weight[:, 0, :kept] = 1
            apart = _Given(given.pred, given.target, weight).put_to(made)
            if not bool(apart.isfinite().all()):
                return f"is not finite where {kept} tokens have weight"
            given.pred.grad = None
            if apart.requires_grad:
                apart.sum().backward()
            gradient = given.pred.grad
            if gradient is not None and not bool(gradient.isfinite().all()):
                return f"a gradient is not finite where {kept} tokens have weight"
        return ""

    def extremes(self) -> str:
        made = self.factory()
        for scale in (0.0, 1e-4, 300.0):
            given = _given(made)
            x = (scale * given.pred.detach()).requires_grad_()
            for target in (given.target, scale * given.target):
                apart = _Given(x, target, given.weight).put_to(made)
                apart.sum().backward()
                if not bool(apart.isfinite().all()):
                    return f"is not finite for features times {scale}"
                if x.grad is None or not bool(x.grad.isfinite().all()):
                    return f"a gradient is not finite for features times {scale}"
        return ""

    def often(self) -> str:
        made = self.factory()
        first: dict[int, Tensor] = {}
        for call in range(CALLS):
            tokens = (_TOKENS, 3, 11)[call % 3]
            given = _given(made, tokens=tokens, seed=tokens)
            before = Untouched({"input": given}, whole=True)
            apart = given.put_to(made)
            wrong = distance_problem(apart, given.weight, made.per_token)
            wrong = wrong or before.problem()
            same = wrong or torch.allclose(
                first.setdefault(tokens, apart.detach()), apart, rtol=1e-3, atol=1e-6
            )
            if not same:
                wrong = "gives another distance for the same features"
            if wrong:
                return f"{wrong} (call {call + 1})"
        return ""


def _weighed(apart: Tensor, weight: Tensor) -> Tensor:
    return apart * weight if apart.dim() == 3 else apart


def _total(apart: Tensor, weight: Tensor) -> float:
    return float(_weighed(apart, weight).sum().detach())


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("says whether it is per token, and of equal widths", _Subject.says),
    ("takes its own options by name, and no others", _Subject.options),
    ("is one finite number a token, or one a layer, as it says", _Subject.shape),
    ("moves the student", _Subject.moves),
    ("the teacher itself is nearer than a stranger", _Subject.nearer),
    ("a token without weight says nothing", _Subject.unseen),
    ("is finite of no token and of one", _Subject.nothing),
    ("is finite for features that are 0, small or large", _Subject.extremes),
    ("keeps all this call after call, its input as it was", _Subject.often),
)
