"""Next-token vectors, a block of places at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from align.errors import InputError
from plugins.contracts.step import step_context, step_places
from student.match import DISTANCES, Match
from student.match.distance import alone
from student.objective import OUTPUTS, count_of, needs_of
from tests.student.match.test_term import TEACHERS, sizes

ALONE = sorted(name for name, made in DISTANCES.items() if alone(made))


def met(**options):
    term = Match(site="logits", **options)
    term.meet(sizes(8), TEACHERS)
    return term


def outputs_in_blocks(ctx, block):
    """In float64, so many places at a time."""

    def wide(output):
        weight = output.head.weight.double()
        head = replace(output.head, weight=weight)
        return replace(output, hidden=output.hidden.double(), head=head)

    outputs = ctx.outputs
    teachers = [replace(t, output=wide(t.output)) for t in outputs.teachers]
    config = replace(outputs.config, block=block)
    student = wide(outputs.student)
    whole = replace(outputs, student=student, teachers=teachers, config=config)
    return replace(ctx, outputs=whole)


def by_hand(ctx, distance):
    """Place by place, with NumPy."""
    total = weight = 0.0
    outputs = ctx.outputs
    for taught in outputs.teachers:
        pairing = outputs.pairing(taught)
        same, weights = pairing.same.flatten(), pairing.same_next(taught.weight)
        ours, theirs = (
            (o.hidden.flatten(0, 1) @ o.head.weight.T).detach().numpy()
            for o in (outputs.student, taught.output)
        )
        for place in weights.nonzero()[:, 0].tolist():
            apart = distance(ours[place], theirs[int(same[place])])
            total += float(weights[place]) * apart
            weight += float(weights[place])
    return total / weight


def test_correlation_and_squared_distance_are_numpys_place_by_place():
    ctx = outputs_in_blocks(step_context()[0], 128)
    for distance, expected in {
        "cosine": lambda p, q: 1 - np.corrcoef(p, q)[0, 1],
        "mse": lambda p, q: np.var(p - q),
    }.items():
        value = float(met(distance=distance)(ctx).detach())
        assert value == pytest.approx(by_hand(ctx, expected), rel=1e-6)
        assert value > 0.1


@pytest.mark.parametrize("distance", ALONE)
def test_gradients_are_those_of_all_logits_at_once_in_any_blocks(distance):
    gradients = []
    for block in (128, 2):
        plain, student, targets = step_context(size=9)
        for target in targets:
            target.requires_grad_()
        met(distance=distance)(outputs_in_blocks(plain, block)).backward()
        gradients.append([x.grad for x in student if x.grad is not None])
        assert all(target.grad is None for target in targets)
    assert len(gradients[0]) == 2  # hidden states, and the head
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("distance", ALONE)
def test_the_teacher_itself_costs_nothing_and_no_coverage_neither(distance):
    ctx = step_context()[0]
    term = met(distance=distance)
    student = ctx.outputs.student
    twins = [replace(t, output=student) for t in ctx.outputs.teachers]
    twin = replace(ctx, outputs=replace(ctx.outputs, teachers=twins))
    assert float(term(twin).detach()) == pytest.approx(0, abs=1e-6)
    for given in ({"covered": False}, {"teachers": False}):
        assert float(term(step_context(**given)[0]).detach()) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = term(ctx)
    assert value.isfinite() and value.dtype == torch.float32


def test_places_of_one_vocabulary_are_counted_and_others_left_out():
    ctx = step_context()[0]
    places = step_places(ctx)
    term = Match(site="logits", distance="mse")
    assert needs_of({"m": term}) == {OUTPUTS} and term.same_vocabulary
    outputs = ctx.outputs
    weighs = [
        float(outputs.pairing(t).same_next(t.weight).sum()) for t in outputs.teachers
    ]
    assert count_of(term)(places) == [pytest.approx(sum(weighs))]
    other = [replace(places.readings[0], vocabulary="other"), places.readings[1]]
    fewer = count_of(term)(replace(places, readings=other))
    assert fewer == [pytest.approx(weighs[1])]
    named = Match(site="logits", distance="mse", teachers=["qwen"])
    assert count_of(named)(places) == [pytest.approx(weighs[1])]
    stranger = replace(outputs.teachers[0].output, vocabulary="other")
    taught = [replace(outputs.teachers[0], output=stranger), outputs.teachers[1]]
    without = replace(ctx, outputs=replace(outputs, teachers=taught))
    torch.testing.assert_close(term(without), named(ctx))


def test_what_needs_other_tokens_or_a_map_is_refused():
    with pytest.raises(InputError, match=r"choose one of mse, smooth_l1, cosine, or"):
        Match(site="logits", distance="cka")
    with pytest.raises(InputError, match=r"logits are compared as they are"):
        Match(site="logits", distance="mse", projector="linear")
