"""Promises on how a space behaves: what learns, what is saved, what is left alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.calibration import METHODS
from align.kv import KV
from plugins.contracts.space.answers import (
    comparisons_problem,
    fit_problem,
    injection_problem,
    losses_problem,
)
from plugins.contracts.space.lesson import (
    OWN_TOKENS,
    PARTLY,
    Lesson,
    lesson,
    pair_statistics,
    student_shape,
    teacher_shapes,
)
from plugins.contracts.space.subject import CLOSE, Subject, answers, distance
from plugins.promise import first_problem, problem, unreached
from plugins.untouched import Untouched
from student.bridges.base import Bridge

CALLS = 16
"""How often one bridge is asked, since some faults begin late."""


def kind(subject: Subject) -> str:
    """It is a bridge, a new one each time, that knows its sizes."""
    bridge = subject.factory(student_shape(), teacher_shapes(), METHODS["procrustes"])
    if not isinstance(bridge, Bridge):
        return f"makes a {type(bridge).__name__}; return a student.bridges.Bridge"
    again = subject.factory(student_shape(), teacher_shapes(), METHODS["procrustes"])
    return first_problem(
        problem(again is bridge, "the same bridge is handed out twice"),
        problem(
            bridge.student != student_shape() or bridge.teachers != teacher_shapes(),
            "does not hand its sizes on to Bridge.__init__",
        ),
    )


def calibrates(subject: Subject) -> str:
    """Statistics calibrate it, stay as they are, and it reports."""
    bridge, fits = subject.built()
    for m, fit in enumerate(fits):
        wrong = fit_problem(fit, bridge)
        if wrong:
            return f"{wrong} (teacher {m})"
    statistics = pair_statistics(student_shape(), teacher_shapes()[0], 7)
    held = [vars(s) for pair in statistics for s in (pair.to_student, pair.to_teacher)]
    before = Untouched(held, whole=True)
    with torch.no_grad():
        bridge.calibrate(0, *statistics)
    return before.problem()


def learns(subject: Subject) -> str:
    """Distances, own losses and outcome reach all that learns, and the router."""
    causal = teacher_shapes((PARTLY, OWN_TOKENS))  # the others are not injected
    part, bridge = lesson(causal, long=0), subject.made(causal)
    weights = part.weights.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    fused = bridge.fuse_for_injection(part.views, weights)
    assert fused is not None, "injects nothing"
    outcome = bridge.gates.sum()
    for x in (fused.k, fused.v):
        outcome = outcome + (x * torch.randn(x.shape, generator=generator)).sum()
    loss = sum(bridge.auxiliary(part.kv, part.views).values(), outcome * 0)
    (distance(bridge, part) + loss + outcome).backward()
    named = [(n, p) for n, p in bridge.named_parameters() if p.requires_grad]
    odd = [n for n, p in named if p.grad is not None and not p.grad.isfinite().all()]
    routed = weights.grad is not None and bool((weights.grad != 0).any())
    return first_problem(
        unreached(bridge),
        problem(odd, f"the gradient of {odd} is not finite"),
        problem(not routed, "what it injects has no gradient to the weights"),
    )


def own_losses(subject: Subject) -> str:
    """Its own losses are finite, learn, and do not pull the student."""
    part, bridge = lesson(long=0), subject.moved()
    losses = bridge.auxiliary(part.kv, part.views)
    wrong = losses_problem(losses)
    if wrong or not losses:
        return wrong
    total = sum(losses.values(), torch.zeros(()))
    if not total.requires_grad:
        return f"its losses {sorted(losses)} have no gradient"
    leaves = (part.kv.k, part.kv.v)
    pulled = torch.autograd.grad(total, leaves, allow_unused=True)
    if any(g is not None and bool((g != 0).any()) for g in pulled):
        return "its own losses move the student"
    if not bridge.learns_from_student:
        first_layer = part.kv.select_layers([0])
        for name, value in bridge.auxiliary(first_layer, part.views).items():
            if not CLOSE(value, losses[name]):
                return f"{name} reads the student; set learns_from_student = True"
    return ""


def counted(subject: Subject) -> str:
    """Its own losses add up over the passes of a step."""
    part, bridge = lesson(long=0), subject.moved()
    counts = dict(bridge.auxiliary_counts(part.places))
    for name, numbers in counts.items():
        if not numbers or not all(0 <= x < math.inf for x in numbers):
            return f"counts {numbers} for {name}; give numbers >= 0"
    alone = bridge.auxiliary(part.kv, part.views)
    for times in (1, 2):
        shared = bridge.auxiliary(part.kv, part.views, part.share(counts, times))
        if not set(counts) <= set(shared):
            return f"counts {sorted(set(counts) - set(shared))}, which it has not"
        for name, value in shared.items():
            whole, part_of = float(alone[name].detach()), float(value.detach())
            if not math.isclose(times * part_of, whole, rel_tol=1e-3):
                return (
                    f"{name} is {whole:.6g} where its pass is all of its step, and "
                    f"{part_of:.6g} where the step is {times} such passes"
                )
    return ""


def itself(subject: Subject) -> str:
    """A text alone is met as it is among others."""
    bridge = subject.moved()
    for training in (False, True):
        bridge.train(training)
        whole = answers(bridge, lesson(long=0), first=1)
        alone = answers(bridge, lesson(long=0, texts=1), first=1)
        far = [n for n in alone if n in whole and not CLOSE(whole[n], alone[n])]
        if far:
            return f"a text's {far[0]} depends on the others in its batch"
    return ""


def history(subject: Subject) -> str:
    """Training on other batches moves no answer, while parameters stand still."""
    bridge, part = subject.moved().train(), lesson()
    before = answers(bridge, part)
    for seed in range(1, 4):
        other = lesson(long=0, seed=seed)
        loud = replace(other.kv, k=other.kv.k * 5, v=other.kv.v * 5)
        answers(bridge, replace(other, kv=loud))
    after = answers(bridge, part)
    far = [name for name in before if not torch.equal(before[name], after[name])]
    return problem(far, f"{far[:1]} is another after other batches in training")


def restored(subject: Subject) -> str:
    """Another one, calibrated on another sample, answers alike with the state."""
    bridge, again, part = subject.moved(), subject.made(seed=20), lesson(long=0)
    state = {name: x.clone() for name, x in bridge.state_dict().items()}
    again.load_state_dict(state)
    lost = [n for n, x in again.state_dict().items() if not torch.equal(x, state[n])]
    before, after = answers(bridge, part), answers(again, part)
    far = [name for name in before if not torch.equal(before[name], after[name])]
    return first_problem(
        problem(lost, f"{lost} are not what was saved"),
        problem(
            far,
            f"a restored space gives another {far[:1]}; keep what it finds "
            "in calibration in buffers or parameters",
        ),
    )


def untouched(subject: Subject) -> str:
    """What it is given stays as it was."""
    for part in (lesson(), lesson(long=0)):
        bridge = subject.moved()
        before = Untouched((part.kv, part.views, part.weights), whole=True)
        answers(bridge, part)
        wrong = before.problem()
        if wrong:
            return wrong
    return ""


def extremes(subject: Subject) -> str:
    """Loud, silent and narrow keys and values stay finite, and so do gradients."""
    part = lesson(long=0)
    for change in (lambda x: 300 * x, lambda x: 0 * x, lambda x: x.bfloat16()):
        given = _each(part, change)
        bridge = subject.made()
        total = distance(bridge, given)
        fused = bridge.fuse_for_injection(given.views, given.weights)
        wrong = injection_problem(fused, bridge, given.views)
        if wrong:
            return wrong
        if not total.isfinite():
            return f"its distance is {float(total.detach())}"
        total.backward()
        grads = [p.grad for p in bridge.parameters() if p.grad is not None]
        if not all(bool(g.isfinite().all()) for g in grads):
            return "a gradient is not finite"
    return ""


def often(subject: Subject) -> str:
    """The same batches get the same good answers time after time."""
    bridge = subject.moved().train()
    lessons = [lesson(), lesson(long=0), lesson(long=6), lesson(long=1)]
    first: dict[int, dict[str, Tensor]] = {}
    for call in range(CALLS):
        which = call % len(lessons)
        part = lessons[which]
        before = Untouched((part.kv, part.views, part.weights))
        met = bridge.compare(part.kv, part.views, part.weights)
        fused = bridge.fuse_for_injection(part.views, part.weights)
        wrong = first_problem(
            comparisons_problem(met, part.kv, part.weights, whole=True),
            injection_problem(fused, bridge, part.views),
            losses_problem(bridge.auxiliary(part.kv, part.views)),
            before.problem(),
        )
        if not wrong:
            now = answers(bridge, part)
            same = first.setdefault(which, now)
            far = [n for n in now if not torch.equal(now[n], same[n])]
            wrong = problem(far, f"gives another {far[:1]} for the same batch")
        if wrong:
            return f"{wrong} (call {call + 1})"
    return ""


def _each(part: Lesson, change: Any) -> Lesson:
    """Other keys and values of the student and of every teacher."""

    def kv(given: KV) -> KV:
        return replace(given, k=change(given.k), v=change(given.v))

    views = [replace(view, kv=kv(view.met)) for view in part.views]
    return replace(part, kv=kv(part.kv), views=views)
