"""What a contract is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from plugins.untouched import Untouched


@dataclass(frozen=True, slots=True)
class Check:
    """The result of trying one promise."""

    name: str
    """The promise, as a sentence."""
    ok: bool
    """Whether it is kept."""
    detail: str
    """What was found instead; empty where it is kept."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One sentence of a contract and how to try it."""

    name: str
    """The sentence."""
    found: Callable[[], str]
    """Returns what is wrong, or an empty string; may raise."""

    def tried(self) -> Check:
        """Try it; an exception counts as broken, since strangers' code may raise.

        So does whatever is left changed for everybody in the process.
        """
        before = Untouched({})
        try:
            detail = self.found() or before.problem()
        except (Exception, SystemExit) as error:
            detail = f"raises {type(error).__name__}: {error}"
        before.restore()
        return Check(self.name, not detail, detail)


def problem(broken: object, detail: str) -> str:
    """The detail where something is broken, else nothing."""
    return detail if broken else ""


def unreached(module: nn.Module) -> str:
    """What is wrong where a backward pass has left a parameter without a gradient."""
    still = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    return problem(still, f"nothing reaches its parameters {still}")


def first_problem(*problems: str) -> str:
    """The first that is not empty."""
    return next((detail for detail in problems if detail), "")
