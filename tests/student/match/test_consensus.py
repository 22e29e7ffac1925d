"""The term ``consensus``: what teachers agree on, how it weighs, what it counts."""

from dataclasses import replace

import pytest
import torch

from align.calibration import CalibrationStats
from align.consensus import agreement, fit_consensus
from align.errors import InputError
from plugins.contracts.step import step_context, step_places
from student.match import Consensus
from student.objective import RELATIONS, Relation, count_of
from tests.student.match.test_term import TEACHERS, sizes

SHARED = 2


def met(**options):
    term = Consensus(**options)
    term.meet(sizes(8), TEACHERS)
    return term


def context(seed=0, weights=(0.7, 0.3)):
    """Twenty texts of eight tokens; 6 and 10 channels share two signals, that the first
    channels of the student hold, too. The second teacher lacks the last two tokens."""
    g = torch.Generator().manual_seed(seed)
    plain = step_context()[0]

    def normal(*size):
        return torch.randn(size, generator=g)

    signal = normal(2, 20, 8, SHARED)

    def holding(width):
        x = normal(2, 20, 8, width)
        x[..., :SHARED] = signal + 0.3 * x[..., :SHARED]
        return x

    student = [holding(8).requires_grad_() for _ in "kv"]
    relations = []
    for name, width, weight in zip(("gpt2", "qwen"), (6, 10), weights, strict=True):
        weighs = torch.full((20, 8), weight)
        weighs[:, 6:] *= name == "gpt2"
        k, v = holding(width), holding(width)
        relations.append(
            Relation(
                name=name,
                student_k=student[0],
                student_v=student[1],
                teacher_k=k,
                teacher_v=v,
                weight=weighs,
                rows=torch.zeros(20, 1, dtype=torch.int64),
            )
        )
    return replace(plain, relations=relations, totals=None)


def by_hand(term, ctx, known):
    """The loss from what the term holds, token by token."""
    first, second = ctx.relations
    x = torch.cat([first.teacher_k, second.teacher_k], -1)
    total = weight = 0.0
    for layer in range(2):
        z = x[layer] @ term.weight[layer] - term.shift[layer]
        held = term.projector.weight[layer], term.projector.bias[layer]
        pred = first.student_k[layer] @ held[0] + held[1]
        rho = term.agreement[layer]
        cost = ((pred - z).square() * rho).sum(-1) / rho.sum()
        total = total + (cost[known] * 1.0).sum() / 2
        weight = weight + float(known.sum()) / 2
    return total / weight


def test_what_all_cover_is_drawn_towards_what_they_agree_on_by_hand():
    term, ctx = met(dims=4), context()
    term.fit([ctx])
    known = torch.zeros(20, 8, dtype=torch.bool)
    known[:, :6] = True  # and 0.7 + 0.3 is 1
    torch.testing.assert_close(term(ctx), by_hand(term, ctx, known))


def test_directions_and_weights_are_those_of_the_sample_in_two_halves():
    term, ctx = met(dims=5), context()
    term.fit([ctx])
    first, second = ctx.relations
    x = torch.cat([first.teacher_k, second.teacher_k], -1)[:, :, :6]
    sums = []
    for which in (slice(None), slice(1, None, 2), slice(0, None, 2)):
        stats = CalibrationStats(2, 16, 1)
        part = x[:, which].flatten(1, 2)
        stats.update(part, part[:, :, :1])
        sums.append(stats)
    every, odd, even = sums
    together = fit_consensus(every, (6, 10))
    torch.testing.assert_close(term.weight, together.weight[:, :, :5].float())
    scores = [
        agreement(fit_consensus(half, (6, 10)), other)
        for half, other in ((odd, even), (even, odd))
    ]
    expected = ((scores[0] + scores[1]) / 2)[:, :5].clamp(min=0).float()
    torch.testing.assert_close(term.agreement, expected)
    assert (expected[:, :SHARED] > 0.8).all() and (expected[:, SHARED:] < 0.4).all()


def test_the_map_begins_near_what_it_is_compared_with():
    term, ctx = met(dims=SHARED), context()
    term.fit([ctx])
    assert float(term(ctx).detach()) < 0.3  # of a variance of 1
    assert float(term(context(seed=1)).detach()) < 0.3


def test_the_student_and_its_map_learn_and_teachers_do_not():
    term, ctx = met(), context()
    term.fit([ctx])
    term(ctx).backward()
    first = ctx.relations[0]
    assert first.student_k.grad.abs().sum() > 0 and first.student_v.grad is None
    assert all(p.grad.abs().sum() > 0 for p in term.parameters())
    assert first.teacher_k.grad is None


def test_it_is_saved_whole_and_put_back_into_one_that_met_the_same_teachers():
    term, ctx = met(site="values"), context()
    term.fit([ctx])
    other = met(site="values")
    other.load_state_dict(term.state_dict())
    torch.testing.assert_close(other(ctx), term(ctx))
    assert term.needs == {RELATIONS}


def test_places_are_counted_that_every_teacher_covers():
    ctx = step_context()[0]
    places = step_places(ctx)
    both = torch.stack([relation.weight for relation in ctx.relations])
    expected = float((both.sum(0) * (both > 0).all(0)).sum())
    assert 0 < expected < float(both.sum())
    for term in (Consensus(), met()):
        assert count_of(term)(places) == [pytest.approx(expected)]
    alone = replace(places, readings=places.readings[:1])
    assert count_of(met())(alone) == [0]


def test_without_a_teacher_of_it_nothing_is_learned():
    term, ctx = met(), context()
    term.fit([ctx])
    assert float(term(replace(ctx, relations=ctx.relations[:1]))) == 0


def test_what_cannot_agree_is_refused():
    with pytest.raises(InputError, match="two or more teachers, and 'gpt2' brings"):
        Consensus().meet(sizes(8), {"gpt2": sizes(6)})
    with pytest.raises(InputError, match="no teacher brings"):
        Consensus().meet(sizes(8), {})
    with pytest.raises(InputError, match="strength must be >= 0"):
        Consensus(strength=-1)


def test_who_shares_no_token_has_nothing_to_agree_on():
    term, ctx = met(), context(weights=(1.0, 0.0))
    term.fit([ctx])
    assert not term.agreement.any() and float(term(ctx)) == 0
    term.fit([context()])
    assert float(term(context()).detach()) > 0


def test_teachers_that_nobody_named_are_those_of_the_sample():
    term, named, ctx = Consensus(), met(), context()
    for each in (term, named):
        each.fit([ctx])
    torch.testing.assert_close(term(ctx), named(ctx))


def test_one_text_is_judged_by_itself_and_few_channels_are_all_there_is():
    term, ctx = met(dims=99), context()
    only = replace(
        ctx,
        relations=[
            replace(
                r,
                student_k=r.student_k[:, :1],
                student_v=r.student_v[:, :1],
                teacher_k=r.teacher_k[:, :1],
                teacher_v=r.teacher_v[:, :1],
                weight=r.weight[:1],
            )
            for r in ctx.relations
        ],
    )
    term.fit([only])
    assert term.weight.shape == (2, 16, 16)
    assert term(only).isfinite() and (term.agreement[:, 0] > 0.9).all()
