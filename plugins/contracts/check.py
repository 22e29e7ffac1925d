"""Tests that a third party runs against its own plugin.

``check("router", DirichletRouter)`` tries what the kind's hookspec promises on
small real inputs and returns one :class:`Check` per promise. In a plugin's own
tests: ``assert_contract("router", DirichletRouter)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from plugins.contracts import aligner as contract_aligner
from plugins.contracts import balancer as contract_balancer
from plugins.contracts import curriculum as contract_curriculum
from plugins.contracts import distance as contract_distance
from plugins.contracts import maps as contract_maps
from plugins.contracts import objective as contract_objective
from plugins.contracts import phase as contract_phase
from plugins.contracts import projector as contract_projector
from plugins.contracts import router as contract_router
from plugins.contracts import schedule as contract_schedule
from plugins.contracts import selector as contract_selector
from plugins.contracts import space as contract_space
from plugins.contracts.models import evaluator as contract_evaluator
from plugins.contracts.models import student_maker as contract_student_maker
from plugins.contracts.models import teacher_source as contract_teacher_source
from plugins.contracts.models import transform as contract_transform
from plugins.contracts.models import writer as contract_writer
from plugins.entry import kind_now
from plugins.errors import PluginError
from plugins.promise import Check, Promise
from plugins.seeds import kept

CONTRACTS: dict[str, Callable[[Any], Iterator[Promise]]] = {
    "aligner": contract_aligner.aligner,
    "layer_map": contract_maps.layer_map,
    "adapter": contract_maps.adapter,
    "rope_scaler": contract_maps.rope_scaler,
    "router": contract_router.router,
    "space": contract_space.space,
    "objective": contract_objective.objective,
    "distance": contract_distance.distance,
    "projector": contract_projector.projector,
    "balancer": contract_balancer.balancer,
    "selector": contract_selector.selector,
    "schedule": contract_schedule.schedule,
    "teacher_source": contract_teacher_source.teacher_source,
    "student_maker": contract_student_maker.student_maker,
    "transform": contract_transform.transform,
    "writer": contract_writer.writer,
    "evaluator": contract_evaluator.evaluator,
    "curriculum": contract_curriculum.curriculum,
    "phase": contract_phase.phase,
}
"""For each kind, what it promises."""


def check(kind: str, offered: Any) -> list[Check]:
    """Try every promise of a kind on what a plugin offers.

    Args:
        kind: a key of :data:`CONTRACTS`.
        offered: the value a hook offers: a factory, a function or a mapping.

    Returns:
        One result per promise, in order; a promise that raises is not kept. The random
        states of PyTorch, Python and NumPy are left as they were.

    Raises:
        PluginError: there is no such kind.
    """
    kind = kind_now(kind)
    if kind not in CONTRACTS:
        raise PluginError(
            f"{kind!r} is no kind of plugin; kinds are {', '.join(CONTRACTS)}"
        )
    restore = kept()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        results = [promise.tried() for promise in CONTRACTS[kind](offered)]
    restore()
    return results


def assert_contract(kind: str, offered: Any) -> None:
    """Raise unless every promise is kept.

    Raises:
        PluginError: listing each promise that is not kept, and why.
    """
    broken = [result for result in check(kind, offered) if not result.ok]
    if broken:
        lines = "\n".join(f"- {result.name}: {result.detail}" for result in broken)
        raise PluginError(f"the {kind} breaks its contract:\n{lines}")
