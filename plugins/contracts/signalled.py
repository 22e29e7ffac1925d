"""Contract of routers that are told more than the student's hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fuse.signals import (
    AGREEMENT,
    COST,
    DOMAIN,
    ENTROPY,
    FORETOLD,
    KV_FIT,
    LOG_PROB,
    LOSS_SO_FAR,
    MAX_PROB,
    RIGHT,
    STUDENT_ENTROPY,
    STUDENT_LOG_PROB,
    STUDENT_MAX_PROB,
    Signals,
    signals_needed,
)
from plugins.answers import SUM, weights_problem
from plugins.promise import Promise, first_problem, problem
from plugins.untouched import Untouched

_WIDTH, _TEACHERS, _TEXTS, _TOKENS = 16, 3, 4, 9


def signalled(factory: Callable[..., nn.Module]) -> Iterator[Promise]:
    """A router is told of texts, with one teacher that foretells nothing."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


def told(needs: frozenset[str], teachers: int, seed: int = 0) -> Signals:
    """Signals of ``_TEXTS`` texts; of several teachers nothing is known of the last."""
    chance = torch.Generator().manual_seed(seed)
    ends = torch.rand(_TEXTS, _TOKENS, generator=chance) < 0.6
    nats = -4 * torch.rand(_TEXTS, _TOKENS, teachers, generator=chance)
    share = torch.rand(_TEXTS, _TOKENS, teachers, generator=chance)
    if teachers > 1:
        nats[..., -1] = share[..., -1] = torch.nan
    of_text = torch.rand(2, _TEXTS, _TOKENS, generator=chance)
    every = {
        LOG_PROB: nats,
        ENTROPY: -nats,
        MAX_PROB: share,
        RIGHT: share.round(),
        LOSS_SO_FAR: -nats,
        KV_FIT: share,
        AGREEMENT: of_text[0],
        COST: 1e8 * torch.rand(teachers, generator=chance),
        STUDENT_LOG_PROB: of_text[0].log(),
        STUDENT_ENTROPY: 4 * of_text[1],
        STUDENT_MAX_PROB: of_text[0],
    }
    given: dict[str, Any] = {name: x for name, x in every.items() if name in needs}
    if FORETOLD in needs:
        heard = torch.where(ends[..., None], nats, 0.0)
        given |= {"foretold": heard, "ends": ends}
    if LOG_PROB in needs:
        given["widths"] = torch.full((_TEXTS, _TOKENS), 3.0)
    if DOMAIN in needs:
        given["domains"] = ["prose", "code", "prose", "maths"]
    return Signals(teachers=[f"teacher-{m}" for m in range(teachers)], **given)


def later_counts(
    router: Callable[..., Tensor], query: Tensor, signals: Signals
) -> bool:
    """Whether what a token and later ones are told changes the weights up to it.

    Args:
        router: a router, or a call of one.
        query: (B, T, C) float.
        signals: of the same texts.
    """
    place = query.shape[1] // 2
    later: dict[str, Any] = {
        name: torch.cat([x[:, :place], _otherwise(name, x[:, place:])], 1)
        for name, x in _by_place(signals).items()
    }
    if "ends" in later and "foretold" in later:
        later["foretold"] = later["foretold"] * later["ends"][..., None]
    if not later or query.shape[1] < 2:
        return False
    given = []
    for heard in (signals, replace(signals, **later)):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = router(query.detach(), heard).detach().float()
        given.append(weights[:, : place + 1])
    return not torch.allclose(given[0], given[1], atol=SUM)


def _by_place(signals: Signals) -> dict[str, Tensor]:
    """What is known at every place of a text."""
    names = (each.name for each in fields(signals) if each.name != "widths")
    given = ((name, getattr(signals, name)) for name in names)
    return {n: x for n, x in given if isinstance(x, Tensor) and x.dim() > 1}


def _otherwise(name: str, x: Tensor) -> Tensor:
    """Another thing to be told: of shares and probabilities what is left of 1."""
    if x.dtype == torch.bool:
        return ~x
    if name in {MAX_PROB, RIGHT, AGREEMENT, STUDENT_MAX_PROB, KV_FIT}:
        return 1 - 0.9 * x
    sign = -1 if name in {FORETOLD, LOG_PROB, STUDENT_LOG_PROB} else 1
    return x * 3 + sign


def _query(seed: int = 1) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(_TEXTS, _TOKENS, _WIDTH, generator=chance)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, tried one promise at a time."""

    factory: Callable[..., nn.Module]

    def made(self, teachers: int = _TEACHERS) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.factory(_WIDTH, teachers)

    @property
    def needs(self) -> frozenset[str]:
        return signals_needed(self.factory)

    def kind(self) -> str:
        built = self.made()
        said = problem(not isinstance(built, nn.Module), f"a {type(built).__name__}")
        needs = getattr(built, "needs", None)
        other = problem(
            needs != self.needs, f"the module needs {needs!r}, its factory {self.needs}"
        )
        return first_problem(said, other)

    def weighs(self) -> str:
        for teachers in (_TEACHERS, 2, 1):
            router, query = self.made(teachers), _query()
            for narrow in (query, query.bfloat16(), query[:, :1], query[:1]):
                signals = _first(told(self.needs, teachers), narrow)
                before = Untouched({"the query": narrow, "the signals": signals})
                weights = router(narrow, signals)
                wrong = weights_problem(weights, narrow, teachers) or before.problem()
                if wrong:
                    return f"{wrong} ({teachers} teachers, {tuple(narrow.shape)})"
        return ""

    def causal(self) -> str:
        router = self.made().eval()
        if later_counts(router, _query(), told(self.needs, _TEACHERS)):
            return "what a token and later ones are told changes the weights up to it"
        return ""

    def alone(self) -> str:
        router, query = self.made().eval(), _query()
        signals = told(self.needs, _TEACHERS)
        together = router(query, signals)
        for text in range(_TEXTS):
            of_text = _only(signals, text)
            if not torch.allclose(
                router(query[text : text + 1], of_text)[0], together[text], atol=1e-5
            ):
                return "a text's weights depend on its batch"
        return ""

    def history(self) -> str:
        router, query = self.made().eval(), _query()
        signals = told(self.needs, _TEACHERS)
        before = router(query, signals)
        router(_query(5), told(self.needs, _TEACHERS, seed=7))
        far = not torch.allclose(before, router(query, signals), atol=1e-6)
        return problem(far, "answers otherwise after other texts")

    def learns(self) -> str:
        router = self.made()
        if not any(p.requires_grad for p in router.parameters()):
            return ""
        weights = router(_query(), told(self.needs, _TEACHERS))
        if not weights.requires_grad:
            return "its weights have no gradient"
        weights[..., 0].square().sum().backward()
        gradients = [p.grad for p in router.parameters() if p.grad is not None]
        moved = any(bool((g != 0).any()) for g in gradients)
        return problem(not moved, "no parameter has a gradient")

    def saved(self) -> str:
        router, other = self.made(), self.made()
        with torch.no_grad():
            for parameter in router.parameters():
                parameter.add_(0.1)
        other.load_state_dict(router.state_dict())
        query, signals = _query(), told(self.needs, _TEACHERS)
        same = torch.allclose(
            router.eval()(query, signals), other.eval()(query, signals), atol=1e-6
        )
        return problem(not same, "a restored router answers differently")


def _first(signals: Signals, query: Tensor) -> Signals:
    """Of the texts and tokens of a smaller query."""
    texts, tokens = query.shape[:2]
    return _cut(signals, slice(0, texts), slice(0, tokens))


def _only(signals: Signals, text: int) -> Signals:
    return _cut(signals, slice(text, text + 1), slice(None))


def _cut(signals: Signals, texts: slice, tokens: slice) -> Signals:
    cut: dict[str, Any] = {
        name: x[texts, tokens] for name, x in _by_place(signals).items()
    }
    if signals.widths is not None:
        cut["widths"] = signals.widths[texts, tokens]
    if signals.domains is not None:
        cut["domains"] = signals.domains[texts]
    return replace(signals, **cut)


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("takes hidden_dim and num_teachers, is a module, says its needs", _Subject.kind),
    ("weights are >= 0 and sum to 1, of whomever nothing is known", _Subject.weighs),
    ("weights at a token depend on what earlier ones were told alone", _Subject.causal),
    ("answers each text by itself", _Subject.alone),
    ("no text changes the answers to later ones", _Subject.history),
    ("its weights have a gradient to its parameters", _Subject.learns),
    ("is saved and restored by its state dict", _Subject.saved),
)
