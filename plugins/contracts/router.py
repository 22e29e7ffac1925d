"""Contract of routers: queries of many shapes and sizes, asked many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from fuse.beforehand.texts import decides_before_reading
from fuse.routers.router import needs_sample
from fuse.routers.similarity import RoutingSample
from fuse.signals import signals_needed
from plugins.answers import SUM, SUM_NARROW, weights_problem
from plugins.contracts.beforehand import beforehand
from plugins.contracts.signalled import signalled
from plugins.promise import Promise, first_problem, problem, unreached
from plugins.seeds import chance
from plugins.untouched import Untouched

_WIDTH, _TEACHERS = 16, 3
_SIZES = ((4, 5), (4,), (1, 1), (3, 40), (2, 300), (1,), (7, 2))
CALLS = 120
"""How often one router is asked, since some faults begin late."""


def router(factory: Callable[..., nn.Module]) -> Iterator[Promise]:
    """A router is tried on texts and tokens, large and low-precision queries; one that
    needs signals, on those; one that decides before teachers read, on texts, too."""
    if signals_needed(factory):
        yield from signalled(factory)
    else:
        subject = _Subject(factory)
        for sentence, tried in _PROMISES:
            yield Promise(sentence, partial(tried, subject))
    if decides_before_reading(factory):
        yield from beforehand(factory)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, tried one promise at a time."""

    factory: Callable[..., nn.Module]

    def made(self, teachers: int = _TEACHERS, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            before = Untouched({})
            built: Any = self.factory(_WIDTH, teachers)
            if needs_sample(self.factory):
                built.fit(sample(teachers, seed))
            changed = before.problem()
        if changed:
            raise RuntimeError(changed)
        router: nn.Module = built
        return router

    def trained(self) -> list[nn.Module]:
        """One as it is made and one whose parameters have moved: many begin uniform."""
        module = self.made()
        chance = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn(p.shape, generator=chance).to(p) * 0.5)
        return [self.made(), module]

    def kind(self) -> str:
        built = self.made()
        return first_problem(
            problem(not isinstance(built, nn.Module), f"a {type(built).__name__}"),
            problem(self.made() is built, "the same module is handed out twice"),
        )

    def shape(self) -> str:
        module = self.made()
        for query in queries():
            wanted = (*query.shape[:-1], _TEACHERS)
            got = tuple(module(query).shape)
            if got != wanted:
                return f"{tuple(query.shape)} gives {got}, not {wanted}"
        return ""

    def sums(self) -> str:
        for module, query in product(self.trained(), queries()):
            weights = module(query).detach().float()
            if not (weights >= 0).all():
                return "a weight is negative or not a number"
            if ((weights.sum(-1) - 1).abs() > 1e-2).any():
                return f"sums reach {float(weights.sum(-1).max())}"
        return ""

    def single(self) -> str:
        weights = self.made(1)(queries()[0])
        return problem(
            ((weights - 1).abs() > 1e-5).any(), "one teacher gets less than 1"
        )

    def alone(self) -> str:
        for module, query in product(self.trained(), (queries()[0], *sized())):
            module.eval()
            rows = query.reshape(-1, _WIDTH)[:12]
            together = module(query).reshape(-1, _TEACHERS)[: len(rows)]
            apart = torch.stack([module(row[None])[0] for row in rows])
            if not torch.allclose(together, apart, atol=1e-5):
                return "a text's weights depend on its batch"
            if company_counts(module.train(), query):
                return "while it trains, a text's weights depend on its batch"
        return ""

    def learns(self) -> str:
        module = self.made()
        parameters = [p for p in module.parameters() if p.requires_grad]
        weights = module(queries()[0])
        if not parameters:
            return ""
        if not weights.requires_grad:
            return "its weights have no gradient"
        weights[..., 0].square().sum().backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        moved = any(bool((g != 0).any()) for g in gradients)
        finite = all(bool(g.isfinite().all()) for g in gradients)
        return first_problem(
            problem(not moved, "no parameter has a gradient"),
            problem(not finite, "a gradient is not finite"),
            unreached(module),
        )

    def history(self) -> str:
        answers = []
        for scale in (1, -3):
            module = self.trained()[1].train()
            for query in sized():
                with chance(0):
                    module(query * scale + 1)
            with torch.no_grad(), chance(0):
                answers.append(module.eval()(queries()[0]).float())
        far = not torch.allclose(answers[0], answers[1], atol=1e-5)
        return problem(far, "answers otherwise after other queries in training")

    def saved(self) -> str:
        module, other = self.made(), self.made(seed=5)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1)
        other.load_state_dict(module.state_dict())
        query = queries()[0]
        same = torch.allclose(module.eval()(query), other.eval()(query), atol=1e-6)
        return problem(not same, "a restored router answers differently")

    def fitted(self) -> str:
        module: Any = self.made()
        if not needs_sample(self.factory):
            return ""
        given = sample(_TEACHERS, 1)
        before = Untouched(given, whole=True)
        module.fit(given)
        none_known = replace(given, bits=given.bits * torch.nan)
        module.fit(none_known)
        weights = module(queries()[0])
        return before.problem() or weights_problem(weights, queries()[0], _TEACHERS)

    def often(self) -> str:
        module = self.trained()[1].eval()
        learning = any(p.requires_grad for p in module.parameters())
        asked, first = sized(), dict[int, Tensor]()
        for call in range(CALLS):
            which = call % len(asked)
            query = asked[which]
            before = Untouched({"the query": query}, whole=True)
            weights = module(query)
            wrong = weights_problem(weights, query, _TEACHERS) or before.problem()
            if not wrong and learning and weights.grad_fn is None:
                wrong = "returns weights without a gradient"
            if not wrong:
                same = first.setdefault(which, weights.detach())
                if not torch.allclose(same, weights, atol=1e-6):
                    wrong = "returns other weights for the same query"
            if wrong:
                return f"{wrong} (call {call + 1}, query {tuple(query.shape)})"
        return ""


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("takes hidden_dim and num_teachers and is a module", _Subject.kind),
    ("maps (..., C) to (..., M)", _Subject.shape),
    ("weights are >= 0 and sum to 1 for any query", _Subject.sums),
    ("gives a single teacher everything", _Subject.single),
    ("answers each query by itself", _Subject.alone),
    ("no query changes the answers to later ones", _Subject.history),
    ("its weights have a finite gradient to its parameters", _Subject.learns),
    ("is saved and restored by its state dict", _Subject.saved),
    ("is fitted on a sample, if it asks for one", _Subject.fitted),
    ("keeps all this call after call and leaves queries alone", _Subject.often),
)


def sample(teachers: int, seed: int) -> RoutingSample:
    """Twelve texts; the last of several teachers has no loss of its own."""
    chance = torch.Generator().manual_seed(seed)
    bits = torch.rand(12, teachers, generator=chance) + 1
    if teachers > 1:
        bits[:, -1] = torch.nan
    return RoutingSample(
        hidden=torch.randn(12, _WIDTH, generator=chance) + 1, bits=bits
    )


def company_counts(router: Callable[[Tensor], Tensor], query: Tensor) -> bool:
    """Whether other rows change what the first row is given, chance left out.

    Args:
        router: a router, or a call of one.
        query: (..., C) float of two rows at least, else nothing is asked.
    """
    rows = query.detach().reshape(-1, query.shape[-1])
    if len(rows) < 2:
        return False
    other = torch.cat([rows[:1], -rows[:-1]]).view_as(query)
    devices = [query.device] if query.device.type == "cuda" else []
    given = []
    for company in (query.detach(), other):
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(0)
            weights = router(company)
        given.append(weights.detach().float().reshape(len(rows), -1)[0])
    narrow = query.dtype in (torch.float16, torch.bfloat16)
    on = torch.is_autocast_enabled(query.device.type)
    return not torch.allclose(
        given[0], given[1], atol=SUM_NARROW if narrow or on else SUM
    )


def queries() -> list[Tensor]:
    """Texts, tokens, huge, empty and low-precision queries."""
    base = torch.randn(4, 5, _WIDTH, generator=torch.Generator().manual_seed(1))
    return [base, base[:, 0], base * 1e4, base * 0, base.bfloat16()]


def sized() -> list[Tensor]:
    """Queries of several sizes, the same at every call."""
    chance = torch.Generator().manual_seed(2)
    return [torch.randn(*size, _WIDTH, generator=chance) for size in _SIZES]
