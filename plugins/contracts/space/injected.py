"""Promises on what a space injects: the student's sizes, nothing of the future."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from align.kv import KV
from plugins.contracts.space.answers import injection_problem
from plugins.contracts.space.lesson import (
    BOTH_WAYS,
    Lesson,
    lesson,
    reached,
    teacher_shapes,
    with_other_keys,
)
from plugins.contracts.space.subject import Subject
from plugins.promise import problem
from student.bridges.base import Bridge


def injects(subject: Subject) -> str:
    """What it injects has the student's sizes, and is something."""
    for part in (lesson(), lesson(long=0), lesson(long=6)):
        bridge = subject.made()
        fused = bridge.fuse_for_injection(part.views, part.weights)
        wrong = injection_problem(fused, bridge, part.views)
        if wrong:
            return wrong
    part = lesson(long=0)
    fused = subject.made().fuse_for_injection(part.views, part.weights)
    nothing = fused is None or not bool(fused.mask.any())
    return problem(nothing, "injects nothing of the teachers that are causal")


def one_way(subject: Subject) -> str:
    """Who has read the future is not injected, nor shows in what is."""
    both_ways = teacher_shapes((BOTH_WAYS,))
    part, bridge = lesson(both_ways), subject.made(both_ways)
    if bridge.fuse_for_injection(part.views, part.weights) is not None:
        return "injects a bidirectional teacher, which has read the future"
    part, bridge = lesson(long=0), subject.moved()
    views = [
        view if view.causal is not None else with_other_keys(view)
        for view in part.views
    ]
    return problem(
        not _same_kv(*(_injected(bridge, part, v) for v in (part.views, views))),
        "what it injects follows a bidirectional teacher, which has read the future",
    )


def no_future(subject: Subject) -> str:
    """See :func:`future_problem`."""
    for part in (lesson(), lesson(long=0), lesson(long=2)):
        wrong = future_problem(subject.moved(), part.views, part.weights)
        if wrong:
            return wrong
    return ""


@torch.no_grad()
def future_problem(bridge: Any, views: Sequence[Any], weights: Tensor) -> str:
    """Whether what is injected changes with what teachers have read later.

    The causal alignment says which teacher tokens a student token, and those before it,
    may have read. A teacher is given other keys and values from one of its tokens on,
    and no student token before that may notice.

    Args:
        bridge: whatever has :meth:`Bridge.fuse_for_injection`.
        views: M teachers.
        weights: (B, T, M) float32.
    """
    now = bridge.fuse_for_injection(views, weights)
    if now is None:
        return ""
    length = max(view.met.num_tokens for view in views)
    for share in (0.25, 0.5, 0.75):
        starts = [round(share * view.met.num_tokens) for view in views]
        later = [with_other_keys(v, s) for v, s in zip(views, starts, strict=True)]
        fused = bridge.fuse_for_injection(later, weights)
        if fused is None:
            return "injects, or does not, by what teachers say"
        met = [
            reached(view, start)
            for view, start in zip(views, starts, strict=True)
            if view.causal is not None
        ]
        before = now.mask & ~torch.stack(met).any(0)
        for a, b in ((now.k, fused.k), (now.v, fused.v)):
            scale = float(a.float().abs().amax()) + 1e-6
            apart = (a.float() - b.float()).abs().amax((0, 2, 4)) > 1e-3 * scale
            if bool((apart & before).any()):
                token = int((apart & before).nonzero()[0, 1])
                return (
                    f"future leaks: what token {token} of a text is given follows "
                    f"teacher tokens behind it (of {length}); carry teachers by "
                    "view.causal where they are injected"
                )
    return ""


def _injected(bridge: Bridge, part: Lesson, views: Sequence[Any]) -> KV | None:
    with torch.no_grad():
        return bridge.fuse_for_injection(views, part.weights)


def _same_kv(left: KV | None, right: KV | None) -> bool:
    if left is None or right is None:
        return left is right
    return all(
        map(torch.equal, (left.k, left.v, left.mask), (right.k, right.v, right.mask))
    )
