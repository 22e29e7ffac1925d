"""Contract of spaces: unlike teachers, calibrated, met and injected many times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from align.calibration import METHODS
from align.kv import KV
from plugins.contract import Promise, first_problem, problem
from plugins.contract_lesson import (
    BOTH_WAYS,
    OWN_TOKENS,
    PARTLY,
    Lesson,
    lesson,
    pair_statistics,
    reached,
    student_shape,
    teacher_shapes,
    with_other_keys,
)
from plugins.contract_space_answers import (
    comparisons_problem,
    fit_problem,
    injection_problem,
    losses_problem,
)
from plugins.hookspecs import Space
from plugins.seeds import chance
from plugins.untouched import Untouched
from student.bridges.base import Bridge, TeacherShape
from student.objective import Comparison

CALLS = 16
"""How often one bridge is asked, since some faults begin late."""
_CLOSE = partial(torch.allclose, rtol=1e-4, atol=1e-5, equal_nan=True)


def space(factory: Space) -> Iterator[Promise]:
    """A space is tried as training uses it: calibrated on statistics, compared with a
    student, injected into it; with teachers that cover a part, that are bidirectional,
    that are alone; on short, long and uncovered texts."""

    def built(
        teachers: tuple[TeacherShape, ...] | None = None, seed: int = 0
    ) -> tuple[Bridge, list[dict[str, list[float]]]]:
        teachers = teacher_shapes() if teachers is None else teachers
        student = student_shape()
        with chance(seed):
            before = Untouched({})
            bridge = factory(student, teachers, METHODS["procrustes"])
            changed = before.problem()
            if changed:
                raise RuntimeError(changed)
            with torch.no_grad():
                fits = [
                    bridge.calibrate(m, *pair_statistics(student, teacher, seed + m))
                    for m, teacher in enumerate(teachers)
                ]
        return bridge, fits

    def made(teachers: tuple[TeacherShape, ...] | None = None, seed: int = 0) -> Bridge:
        return built(teachers, seed)[0]

    def moved(seed: int = 0) -> Bridge:
        """One whose parameters have learned something: many begin as the identity."""
        bridge, generator = made(seed=seed), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in bridge.parameters():
                p.add_(torch.randn(p.shape, generator=generator).to(p) * 0.1)
        return bridge

    def kind() -> str:
        bridge = factory(student_shape(), teacher_shapes(), METHODS["procrustes"])
        if not isinstance(bridge, Bridge):
            return f"makes a {type(bridge).__name__}; return a student.bridges.Bridge"
        again = factory(student_shape(), teacher_shapes(), METHODS["procrustes"])
        return first_problem(
            problem(again is bridge, "the same bridge is handed out twice"),
            problem(
                bridge.student != student_shape()
                or bridge.teachers != teacher_shapes(),
                "does not hand its sizes on to Bridge.__init__",
            ),
        )

    def calibrates() -> str:
        bridge, fits = built()
        for m, fit in enumerate(fits):
            wrong = fit_problem(fit, bridge)
            if wrong:
                return f"{wrong} (teacher {m})"
        statistics = pair_statistics(student_shape(), teacher_shapes()[0], 7)
        held = [
            vars(s) for pair in statistics for s in (pair.to_student, pair.to_teacher)
        ]
        before = Untouched(held, whole=True)
        with torch.no_grad():
            bridge.calibrate(0, *statistics)
        return before.problem()

    def pairs() -> str:
        for part in (lesson(), lesson(long=0), lesson(long=6)):
            for weights in (part.weights, _by_layer(part.weights)):
                met = made().compare(part.kv, part.views, weights)
                wrong = comparisons_problem(met, part.kv, weights, whole=True)
                if wrong:
                    return wrong
        return ""

    def some() -> str:
        for chosen in ((PARTLY,), (BOTH_WAYS,), (1, 0)):
            teachers = teacher_shapes(chosen)
            part, bridge = lesson(teachers), made(teachers)
            met = bridge.compare(part.kv, part.views, part.weights)
            wrong = comparisons_problem(met, part.kv, part.weights, whole=True)
            if not wrong:
                fused = bridge.fuse_for_injection(part.views, part.weights)
                wrong = injection_problem(fused, bridge, part.views)
            if wrong:
                return f"{wrong} (teachers {', '.join(t.name for t in teachers)})"
        return ""

    def student_moves() -> str:
        part = lesson(long=0)
        _distance(made(), part).backward()
        for name, leaf in (("keys", part.kv.k), ("values", part.kv.v)):
            if leaf.grad is None or not bool((leaf.grad != 0).any()):
                return f"nothing pulls the student's {name}"
            if not bool(leaf.grad.isfinite().all()):
                return f"the gradient of the student's {name} is not finite"
        return ""

    def targets_stand() -> str:
        part, bridge = lesson(long=0), moved()
        before = _targets(bridge, part)
        parameters = [p for p in bridge.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            _distance(bridge, part), parameters, allow_unused=True
        )
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(0.05 * gradient.sign())
        same = all(map(torch.equal, before, _targets(bridge, part)))
        return problem(
            not same,
            "a step down the distance moves a target: what makes targets learns from "
            "the outcome, or from losses of its own, never from the distance",
        )

    def student_is_no_target() -> str:
        part, bridge = lesson(long=0), moved()
        before = _targets(bridge, part)
        louder = replace(part, kv=replace(part.kv, k=part.kv.k * 3, v=part.kv.v * 3))
        same = all(map(torch.equal, before, _targets(bridge, louder)))
        return problem(not same, "a target follows the student")

    def left_out() -> str:
        part, bridge = lesson(long=0), moved()
        for m in range(len(part.views)):
            weights = part.weights.clone()
            weights[..., m] = 0
            views = list(part.views)
            views[m] = with_other_keys(views[m])
            distances = [
                _distance(bridge, replace(part, views=given, weights=weights))
                for given in (part.views, views)
            ]
            if not _CLOSE(*distances):
                return f"{part.views[m].name} counts where its weight is 0"
        return ""

    def uncovered() -> str:
        part, bridge = lesson(covered=False), moved()
        met = bridge.compare(part.kv, part.views, part.weights)
        fused = bridge.fuse_for_injection(part.views, part.weights)
        with_weight = any(bool((c.weight != 0).any()) for c in met)
        return first_problem(
            comparisons_problem(met, part.kv, part.weights, whole=True),
            problem(with_weight, "a token that no teacher covers has weight"),
            injection_problem(fused, bridge, part.views),
            losses_problem(bridge.auxiliary(part.kv, part.views)),
        )

    def injects() -> str:
        for part in (lesson(), lesson(long=0), lesson(long=6)):
            bridge = made()
            fused = bridge.fuse_for_injection(part.views, part.weights)
            wrong = injection_problem(fused, bridge, part.views)
            if wrong:
                return wrong
        part = lesson(long=0)
        fused = made().fuse_for_injection(part.views, part.weights)
        nothing = fused is None or not bool(fused.mask.any())
        return problem(nothing, "injects nothing of the teachers that are causal")

    def one_way() -> str:
        both_ways = teacher_shapes((BOTH_WAYS,))
        part, bridge = lesson(both_ways), made(both_ways)
        if bridge.fuse_for_injection(part.views, part.weights) is not None:
            return "injects a bidirectional teacher, which has read the future"
        part, bridge = lesson(long=0), moved()
        views = [
            view if view.causal is not None else with_other_keys(view)
            for view in part.views
        ]
        return problem(
            not _same_kv(*(_injected(bridge, part, v) for v in (part.views, views))),
            "what it injects follows a bidirectional teacher, which has read the "
            "future",
        )

    def no_future() -> str:
        for part in (lesson(), lesson(long=0), lesson(long=2)):
            wrong = future_problem(moved(), part.views, part.weights)
            if wrong:
                return wrong
        return ""

    def learns() -> str:
        causal = teacher_shapes((PARTLY, OWN_TOKENS))  # the others are not injected
        part, bridge = lesson(causal, long=0), made(causal)
        weights = part.weights.clone().requires_grad_()
        generator = torch.Generator().manual_seed(0)
        fused = bridge.fuse_for_injection(part.views, weights)
        assert fused is not None, "injects nothing"
        outcome = bridge.gates.sum()
        for x in (fused.k, fused.v):
            outcome = outcome + (x * torch.randn(x.shape, generator=generator)).sum()
        own = sum(bridge.auxiliary(part.kv, part.views).values(), outcome * 0)
        (_distance(bridge, part) + own + outcome).backward()
        named = [(n, p) for n, p in bridge.named_parameters() if p.requires_grad]
        still = [name for name, p in named if p.grad is None]
        odd = [
            n for n, p in named if p.grad is not None and not p.grad.isfinite().all()
        ]
        routed = weights.grad is not None and bool((weights.grad != 0).any())
        return first_problem(
            problem(still, f"nothing reaches its parameters {still}"),
            problem(odd, f"the gradient of {odd} is not finite"),
            problem(not routed, "what it injects has no gradient to the weights"),
        )

    def own_losses() -> str:
        part, bridge = lesson(long=0), moved()
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
            one = part.kv.select_layers([0])
            for name, value in bridge.auxiliary(one, part.views).items():
                if not _CLOSE(value, losses[name]):
                    return f"{name} reads the student; set learns_from_student = True"
        return ""

    def counted() -> str:
        part, bridge = lesson(long=0), moved()
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

    def itself() -> str:
        bridge = moved()
        for training in (False, True):
            bridge.train(training)
            whole = _answers(bridge, lesson(long=0), first=1)
            alone = _answers(bridge, lesson(long=0, texts=1), first=1)
            far = [n for n in alone if n in whole and not _CLOSE(whole[n], alone[n])]
            if far:
                return f"a text's {far[0]} depends on the others in its batch"
        return ""

    def history() -> str:
        bridge, part = moved().train(), lesson()
        before = _answers(bridge, part)
        for seed in range(1, 4):
            other = lesson(long=0, seed=seed)
            loud = replace(other.kv, k=other.kv.k * 5, v=other.kv.v * 5)
            _answers(bridge, replace(other, kv=loud))
        after = _answers(bridge, part)
        far = [name for name in before if not torch.equal(before[name], after[name])]
        return problem(far, f"{far[:1]} is another after other batches in training")

    def restored() -> str:
        bridge, again, part = moved(), made(seed=20), lesson(long=0)
        state = {name: x.clone() for name, x in bridge.state_dict().items()}
        again.load_state_dict(state)
        lost = [
            n for n, x in again.state_dict().items() if not torch.equal(x, state[n])
        ]
        before, after = _answers(bridge, part), _answers(again, part)
        far = [name for name in before if not torch.equal(before[name], after[name])]
        return first_problem(
            problem(lost, f"{lost} are not what was saved"),
            problem(
                far,
                f"a restored space gives another {far[:1]}; keep what it finds "
                "in calibration in buffers or parameters",
            ),
        )

    def untouched() -> str:
        for part in (lesson(), lesson(long=0)):
            bridge = moved()
            before = Untouched((part.kv, part.views, part.weights), whole=True)
            _answers(bridge, part)
            wrong = before.problem()
            if wrong:
                return wrong
        return ""

    def extremes() -> str:
        part = lesson(long=0)
        for change in (lambda x: 300 * x, lambda x: 0 * x, lambda x: x.bfloat16()):
            given = _each(part, change)
            bridge = made()
            total = _distance(bridge, given)
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

    def often() -> str:
        bridge = moved().train()
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
                now = _answers(bridge, part)
                same = first.setdefault(which, now)
                far = [n for n in now if not torch.equal(now[n], same[n])]
                wrong = problem(far, f"gives another {far[:1]} for the same batch")
            if wrong:
                return f"{wrong} (call {call + 1})"
        return ""

    yield Promise("takes sizes and an adapter's calibration and is a Bridge", kind)
    yield Promise(
        "is calibrated by statistics, and reports a number a layer", calibrates
    )
    yield Promise("compares like with like, with detached targets and weights", pairs)
    yield Promise("meets one teacher alone, and any two", some)
    yield Promise("pulls the student's keys and values", student_moves)
    yield Promise("no target learns from the distance", targets_stand)
    yield Promise("no target follows the student", student_is_no_target)
    yield Promise("a teacher without weight counts for nothing", left_out)
    yield Promise("what no teacher covers stays out", uncovered)
    yield Promise("injects keys and values of the student's sizes", injects)
    yield Promise("injects no bidirectional teacher", one_way)
    yield Promise("injects no future", no_future)
    yield Promise("whatever learns in it gets a gradient", learns)
    yield Promise("its own losses leave the student alone", own_losses)
    yield Promise("its own losses are a share of the step's", counted)
    yield Promise("meets each text by itself", itself)
    yield Promise("no batch changes the answers to later ones", history)
    yield Promise("is restored bit for bit by its state dict", restored)
    yield Promise("leaves its input as it was", untouched)
    yield Promise("is finite for large, empty and narrow keys", extremes)
    yield Promise("keeps all this call after call", often)


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
    length = max(view.kv.num_tokens for view in views)
    for share in (0.25, 0.5, 0.75):
        starts = [round(share * view.kv.num_tokens) for view in views]
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


def _by_layer(weights: Tensor) -> Tensor:
    """(B, T, M) -> (L, B, T, M): layers that are routed by themselves."""
    layers = student_shape().layers
    return torch.stack([weights / (1 + layer) for layer in range(layers)])


def _distance(bridge: Bridge, part: Lesson) -> Tensor:
    """What the terms on keys and values make of the comparisons."""
    total = torch.zeros(())
    for c in bridge.compare(part.kv, part.views, part.weights):
        for side in ("k", "v"):
            apart = c.distance(side) + 1 - c.cosine(side)  # type: ignore[arg-type]
            total = total + (c.weight * apart).mean(0).sum()
    return total


def _targets(bridge: Bridge, part: Lesson) -> list[Tensor]:
    met = bridge.compare(part.kv, part.views, part.weights)
    return [x.detach().clone() for c in met for x in (c.target_k, c.target_v)]


def _injected(bridge: Bridge, part: Lesson, views: Sequence[Any]) -> KV | None:
    with torch.no_grad():
        return bridge.fuse_for_injection(views, part.weights)


def _same_kv(one: KV | None, other: KV | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(
        map(torch.equal, (one.k, one.v, one.mask), (other.k, other.v, other.mask))
    )


def _answers(
    bridge: Bridge, part: Lesson, first: int | None = None
) -> dict[str, Tensor]:
    """All that a bridge says of a batch, by what it is.

    Args:
        bridge: calibrated.
        part: the batch.
        first: of so many texts alone, and then without its own losses, which may be
            means over a batch; None: everything.
    """
    found: dict[str, Tensor] = {}
    with chance(0):
        met: Sequence[Comparison] = bridge.compare(part.kv, part.views, part.weights)
        fused = bridge.fuse_for_injection(part.views, part.weights)
        own = {} if first is not None else bridge.auxiliary(part.kv, part.views)
    for index, c in enumerate(met):
        weight = c.weight.expand(c.pred_k.shape[:3])
        for name in ("pred_k", "target_k", "pred_v", "target_v"):
            x = getattr(c, name) * (weight > 0)[..., None]
            found[f"comparison {index}, {name}"] = x[:, :first]
        found[f"comparison {index}, weight"] = weight[:, :first]
    if fused is not None:
        covered = fused.mask[:, None, :, None]
        found["injected keys"] = (fused.k * covered)[:, :first]
        found["injected values"] = (fused.v * covered)[:, :first]
        found["injected mask"] = fused.mask[:first]
    found |= {f"loss {name}": value for name, value in own.items()}
    return {name: x.detach().clone() for name, x in found.items()}


def _each(part: Lesson, change: Any) -> Lesson:
    """Other keys and values of the student and of every teacher."""

    def kv(given: KV) -> KV:
        return replace(given, k=change(given.k), v=change(given.v))

    views = [replace(view, kv=kv(view.kv)) for view in part.views]
    return replace(part, kv=kv(part.kv), views=views)
