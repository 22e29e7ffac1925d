"""The guard of spaces: what is compared, injected and learned from on the side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from align.kv import KV
from plugins.contracts.space import future_problem
from plugins.contracts.space.answers import (
    comparisons_problem,
    fit_problem,
    injection_problem,
    losses_problem,
    places_problem,
)
from plugins.entry import Entry
from plugins.guards.shared import (
    Seldom,
    all_finite,
    become,
    blamed,
    made_by,
    partitioned,
    require,
)
from plugins.untouched import Untouched
from student.bridges.base import Bridge

Answer = Callable[[Any, Bridge], str]
"""From an answer and the bridge to what is wrong with it."""


def space(entry: Entry, factory: Callable[..., Any]) -> Callable[..., Bridge]:
    """A factory of bridges whose answers are checked."""

    def build(student: Any, teachers: Any, *rest: Any, **options: Any) -> Bridge:
        made = made_by(entry, factory, student, tuple(teachers), *rest, **options)
        if not isinstance(made, Bridge):
            raise entry.error(
                f"makes a {type(made).__name__}; a space makes a student.bridges.Bridge"
            )
        return _guarded(entry, made)

    return build


def _guarded(entry: Entry, bridge: Bridge) -> Bridge:
    """The same module, of a class that watches the methods which training calls."""
    plain: Any = type(bridge)
    seldom = Seldom()

    def ask(method: str, made: Bridge, given: tuple[Any, ...], wrong: Answer) -> Any:
        before = Untouched(given)
        with blamed(entry):
            answer = getattr(plain, method)(made, *given)
        problem = wrong(answer, made) or before.problem()
        if problem and not all_finite(given, made):
            return answer  # training's trouble, told where it is found
        require(entry, problem)
        return answer

    class Guarded(plain):
        def calibrate(self, m: int, k: Any, v: Any) -> Mapping[str, list[float]]:
            return ask("calibrate", self, (m, k, v), fit_problem)

        def compare(self, kv: KV, views: Any, weights: Tensor) -> Any:
            return ask(
                "compare",
                self,
                (kv, views, weights),
                lambda answer, _: comparisons_problem(answer, kv, weights),
            )

        def fuse_for_injection(self, views: Any, weights: Tensor) -> KV | None:
            fused = ask(
                "fuse_for_injection",
                self,
                (views, weights),
                lambda answer, made: injection_problem(answer, made, views),
            )
            if fused is not None and seldom.now() and not partitioned(self):
                unguarded = _Plainly(self, plain)
                with blamed(entry):
                    leak = future_problem(unguarded, views, weights.detach())
                require(entry, leak)
            return fused

        def auxiliary(self, kv: KV, views: Any, share: Any = None) -> Any:
            return ask(
                "auxiliary",
                self,
                (kv, views, share),
                lambda answer, _: losses_problem(answer),
            )

        def auxiliary_counts(self, places: Any) -> Any:
            return ask(
                "auxiliary_counts",
                self,
                (places,),
                lambda answer, _: places_problem(answer),
            )

        def relations(self, *given: Any) -> Any:
            return ask("relations", self, given, lambda answer, _: "")

    watched: Bridge = become(bridge, Guarded)
    return watched


class _Plainly:
    """A bridge's injection past its guard, with the chance it would have had."""

    def __init__(self, bridge: Bridge, plain: Any) -> None:
        self._bridge, self._plain = bridge, plain

    def fuse_for_injection(self, views: Any, weights: Tensor) -> KV | None:
        devices = [weights.device] if weights.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            fused: KV | None = self._plain.fuse_for_injection(
                self._bridge, views, weights
            )
            return fused
