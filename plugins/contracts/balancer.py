"""Contract of balancers: terms of many sizes, asked many times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from plugins.answers import balanced_problem
from plugins.options import options_of
from plugins.promise import Promise, problem, unreached
from plugins.seeds import chance
from plugins.untouched import Untouched
from student.balance import GRADIENTS, Balanced, Balancer, Standing, balancer_needs

CALLS = 40
"""How often one balancer is asked, since some faults begin late."""
_NAMES = ("ce", "kd", "kv_k", "kv_v", "attention_kl")


def balancer(factory: Callable[..., Balancer]) -> Iterator[Promise]:
    """A balancer is tried on two terms and on five, some of which agree, some of which
    oppose each other, and some of which find nothing in a pass."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


def standing(
    terms: int = len(_NAMES),
    *,
    step: int = 0,
    scale: float = 1.0,
    silent: tuple[int, ...] = (),
    gradients: bool = True,
) -> Standing:
    """Terms of a step, as training would hand them over.

    Args:
        terms: N, at most five.
        step: of the phase; another one, other gradients.
        scale: of losses, and of gradients.
        silent: terms that find nothing to compare.
        gradients: whether their inner products are told.
    """
    generator = torch.Generator().manual_seed(step)
    pulls = scale * torch.randn(terms, 3, generator=generator, dtype=torch.float64)
    losses = scale * torch.rand(terms, generator=generator, dtype=torch.float64)
    for index in silent:
        pulls[index] = losses[index] = 0
    return Standing(
        names=_NAMES[:terms],
        weights=torch.tensor([1.0, 2.0, 0.5, 0.5, 0.01], dtype=torch.float64)[:terms],
        losses=losses,
        gram=pulls @ pulls.T if gradients else None,
        next_token=0,
        step=step,
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, tried one promise at a time."""

    factory: Callable[..., Balancer]

    def made(self, terms: int = len(_NAMES)) -> Balancer:
        before = Untouched({})
        balancer = self.factory(_NAMES[:terms])
        changed = before.problem()
        if changed:
            raise RuntimeError(changed)
        return balancer

    def standing(self, *given: int, **facts: object) -> Standing:
        """As a run fills it for this balancer alone."""
        asked = GRADIENTS in balancer_needs(self.factory)
        return standing(*given, gradients=asked, **facts)  # type: ignore[arg-type]

    def needs(self) -> str:
        asked = balancer_needs(self.factory)
        said = balancer_needs(self.made())
        return problem(
            said != asked,
            f"needs {sorted(said)}, where its factory says {sorted(asked)}",
        )

    def options(self) -> str:
        fields = dataclasses.fields(options_of(self.factory))
        if "use" in {field.name for field in fields}:
            return "has an option 'use', which is where a config names it"
        defaults = {f.name: f.default_factory() for f in fields}  # type: ignore[misc, operator]
        if not fields:
            return ""
        self.factory(_NAMES, **defaults)
        try:
            self.factory(_NAMES, **defaults, no_such_option=0)
        except TypeError:
            return ""
        return "takes an option that it has not, no_such_option, without a word"

    def weighs(self) -> str:
        for terms in (2, 5):
            wrong = self._asked(self.made(terms), self.standing(terms))
            if wrong:
                return f"{wrong} ({terms} terms)"
        return ""

    def silence(self) -> str:
        for silent in ((4,), (0,), (1, 2), (0, 1, 2, 3, 4)):
            wrong = self._asked(self.made(), self.standing(silent=silent))
            if wrong:
                return f"{wrong} (terms {silent} are 0)"
        return ""

    def extremes(self) -> str:
        for scale in (1e-9, 1e9):
            wrong = self._asked(self.made(), self.standing(scale=scale))
            if wrong:
                return f"{wrong} (losses and gradients of {scale:g})"
        return ""

    def untouched(self) -> str:
        given = self.standing()
        before = Untouched(given, whole=True)
        self.made()(given)
        return before.problem()

    def learns(self) -> str:
        made = self.made()
        if not isinstance(made, nn.Module) or not list(made.parameters()):
            return ""
        given = self.standing()
        _loss(made(given), given).backward()
        return unreached(made)

    def often(self) -> str:
        made = self.made()
        for call in range(CALLS):
            silent = ((), (1,), (0, 3))[call % 3]
            given = self.standing(step=call, silent=silent)
            wrong = self._asked(made, given)
            if wrong:
                return f"{wrong} (call {call + 1}, step {call})"
        return ""

    def resumed(self) -> str:
        with chance(0):
            made = self.made()
        for step in range(3):
            with chance(1 + step):
                made(self.standing(step=step))
        with chance(0):
            again = self.made()
        if isinstance(made, nn.Module) and isinstance(again, nn.Module):
            again.load_state_dict(made.state_dict())
        values = []
        for balancer, seed in ((made, 9), (again, 10)):
            with chance(seed):
                values.append(balancer(self.standing(step=3)).weights.detach())
        return problem(
            not torch.allclose(values[0], values[1]),
            f"gives {values[0].tolist()} after other steps, and {values[1].tolist()} "
            "where it is built anew and given its state; keep what it remembers in "
            "buffers, and draw by the step",
        )

    def _asked(self, made: Balancer, given: Standing) -> str:
        before = Untouched(given)
        balanced = made(given)
        wrong = balanced_problem(balanced, len(given.names)) or before.problem()
        if not wrong and not math.isfinite(float(_loss(balanced, given).detach())):
            wrong = "has a loss that is not finite"
        return wrong


def _loss(balanced: Balanced, given: Standing) -> Tensor:
    """What is minimised: the terms by their weights, and its own."""
    weights = balanced.weights
    loss = (weights * given.losses.to(weights)).sum()
    return loss if balanced.loss is None else loss + balanced.loss


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("says what it needs", _Subject.needs),
    ("takes its own options by name, and no others", _Subject.options),
    ("gives every term one finite weight >= 0", _Subject.weighs),
    ("does so where terms find nothing to compare", _Subject.silence),
    ("does so for very small terms and very large ones", _Subject.extremes),
    ("leaves its input as it was", _Subject.untouched),
    ("whatever learns in it gets a gradient", _Subject.learns),
    ("keeps all this call after call", _Subject.often),
    ("remembers nothing that a resumed run would not know", _Subject.resumed),
)
