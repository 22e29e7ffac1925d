"""Promises on what a space compares: targets, weights, teachers left out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from plugins.contracts.space.answers import (
    comparisons_problem,
    injection_problem,
    losses_problem,
)
from plugins.contracts.space.lesson import (
    BOTH_WAYS,
    PARTLY,
    lesson,
    student_shape,
    teacher_shapes,
    with_other_keys,
)
from plugins.contracts.space.subject import CLOSE, Subject, distance, targets
from plugins.promise import first_problem, problem


def pairs(subject: Subject) -> str:
    """What it compares has the right shapes, with and without routing by layer."""
    bridge = subject.made()
    for part in (lesson(), lesson(long=0), lesson(long=6)):
        for weights in (part.weights, _by_layer(part.weights)):
            met = bridge.compare(part.kv, part.views, weights)
            wrong = comparisons_problem(met, part.kv, weights, whole=True)
            if wrong:
                return wrong
    return ""


def some(subject: Subject) -> str:
    """It works with fewer teachers."""
    for chosen in ((PARTLY,), (BOTH_WAYS,), (1, 0)):
        teachers = teacher_shapes(chosen)
        part, bridge = lesson(teachers), subject.made(teachers)
        met = bridge.compare(part.kv, part.views, part.weights)
        wrong = comparisons_problem(met, part.kv, part.weights, whole=True)
        if not wrong:
            fused = bridge.fuse_for_injection(part.views, part.weights)
            wrong = injection_problem(fused, bridge, part.views)
        if wrong:
            return f"{wrong} (teachers {', '.join(t.name for t in teachers)})"
    return ""


def student_moves(subject: Subject) -> str:
    """Both the student's keys and its values have a gradient."""
    part = lesson(long=0)
    distance(subject.made(), part).backward()
    for name, leaf in (("keys", part.kv.k), ("values", part.kv.v)):
        if leaf.grad is None or not bool((leaf.grad != 0).any()):
            return f"nothing pulls the student's {name}"
        if not bool(leaf.grad.isfinite().all()):
            return f"the gradient of the student's {name} is not finite"
    return ""


def targets_stand(subject: Subject) -> str:
    """Whatever a step down the distance moves makes no target."""
    part, bridge = lesson(long=0), subject.moved()
    before = targets(bridge, part)
    parameters = [p for p in bridge.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        distance(bridge, part), parameters, allow_unused=True
    )
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(0.05 * gradient.sign())
    same = all(map(torch.equal, before, targets(bridge, part)))
    return problem(
        not same,
        "a step down the distance moves a target: what makes targets learns from "
        "the outcome, or from losses of its own, never from the distance",
    )


def student_is_no_target(subject: Subject) -> str:
    """Another student has the same targets."""
    part, bridge = lesson(long=0), subject.moved()
    before = targets(bridge, part)
    louder = replace(part, kv=replace(part.kv, k=part.kv.k * 3, v=part.kv.v * 3))
    same = all(map(torch.equal, before, targets(bridge, louder)))
    return problem(not same, "a target follows the student")


def left_out(subject: Subject) -> str:
    """Another teacher without weight changes no distance."""
    part, bridge = lesson(long=0), subject.moved()
    for m in range(len(part.views)):
        weights = part.weights.clone()
        weights[..., m] = 0
        views = list(part.views)
        views[m] = with_other_keys(views[m])
        distances = [
            distance(bridge, replace(part, views=given, weights=weights))
            for given in (part.views, views)
        ]
        if not CLOSE(*distances):
            return f"{part.views[m].name} counts where its weight is 0"
    return ""


def uncovered(subject: Subject) -> str:
    """Where nobody covers anything all is 0 and finite."""
    part, bridge = lesson(covered=False), subject.moved()
    met = bridge.compare(part.kv, part.views, part.weights)
    fused = bridge.fuse_for_injection(part.views, part.weights)
    with_weight = any(bool((c.weight != 0).any()) for c in met)
    return first_problem(
        comparisons_problem(met, part.kv, part.weights, whole=True),
        problem(with_weight, "a token that no teacher covers has weight"),
        injection_problem(fused, bridge, part.views),
        losses_problem(bridge.auxiliary(part.kv, part.views)),
    )


def _by_layer(weights: Tensor) -> Tensor:
    """(B, T, M) -> (L, B, T, M): layers that are routed by themselves."""
    layers = student_shape().layers
    return torch.stack([weights / (1 + layer) for layer in range(layers)])
