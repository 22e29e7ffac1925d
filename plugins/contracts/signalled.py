"""Contract of routers that are told more than the student's hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fuse.signals import DOMAIN, FORETOLD, Signals, signals_needed
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
    """Signals of ``_TEXTS`` texts; of several teachers the last foretells nothing."""
    chance = torch.Generator().manual_seed(seed)
    ends = torch.rand(_TEXTS, _TOKENS, generator=chance) < 0.6
    nats = -4 * torch.rand(_TEXTS, _TOKENS, teachers, generator=chance)
    if teachers > 1:
        nats[..., -1] = torch.nan
    heard = torch.where(ends[..., None], nats, 0.0)
    return Signals(
        teachers=[f"teacher-{m}" for m in range(teachers)],
        foretold=heard if FORETOLD in needs else None,
        ends=ends if FORETOLD in needs else None,
        domains=["prose", "code", "prose", "maths"] if DOMAIN in needs else None,
    )


def later_counts(
    router: Callable[..., Tensor], query: Tensor, signals: Signals
) -> bool:
    """Whether what a token and later ones are told changes the weights up to it.

    Args:
        router: a router, or a call of one.
        query: (B, T, C) float.
        signals: of the same texts.
    """
    if signals.foretold is None or signals.ends is None or query.shape[1] < 2:
        return False
    place = query.shape[1] // 2
    nats, ends = signals.foretold.clone(), signals.ends.clone()
    nats[:, place:] = nats[:, place:] * 3 - 1
    ends[:, place:] = ~ends[:, place:]
    other = replace(signals, foretold=nats * ends[..., None], ends=ends)
    given = []
    for heard in (signals, other):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = router(query.detach(), heard).detach().float()
        given.append(weights[:, : place + 1])
    return not torch.allclose(given[0], given[1], atol=SUM)


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

    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[:texts, :tokens]

    domains = None if signals.domains is None else signals.domains[:texts]
    foretold, ends = cut(signals.foretold), cut(signals.ends)
    return replace(signals, foretold=foretold, ends=ends, domains=domains)


def _only(signals: Signals, text: int) -> Signals:
    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[text : text + 1]

    domains = None if signals.domains is None else signals.domains[text : text + 1]
    foretold, ends = cut(signals.foretold), cut(signals.ends)
    return replace(signals, foretold=foretold, ends=ends, domains=domains)


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("takes hidden_dim and num_teachers, is a module, says its needs", _Subject.kind),
    ("weights are >= 0 and sum to 1, whoever foretells nothing", _Subject.weighs),
    ("weights at a token depend on what earlier ones were told alone", _Subject.causal),
    ("answers each text by itself", _Subject.alone),
    ("no text changes the answers to later ones", _Subject.history),
    ("its weights have a gradient to its parameters", _Subject.learns),
    ("is saved and restored by its state dict", _Subject.saved),
)
