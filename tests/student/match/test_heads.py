"""Attention head by head: who stands beside whom, captured, carried, compared."""

from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from align.tokenizer_align import LastTokenAligner, encode_batch
from plugins.contracts.step import step_context, step_places
from student.match import Match
from student.match.heads import HeadPairing
from student.objective import HEADS, count_of, needs_of
from student.step.context import introduce
from teacher.live_teacher import carry_attention
from tests.student.match.conftest import TAUGHT
from tests.student.match.test_rows import EVERY
from tests.student.match.test_term import sizes

HEADED = {
    name: replace(sizes(6), query_heads=heads)
    for name, heads in (("gpt2", 3), ("qwen", 5))
}
"""The context's teachers; its student has four heads."""


def met(teachers=HEADED, **options):
    term = Match(site="attention", **{"distance": "kl", **options})
    term.meet(replace(sizes(8), query_heads=4), teachers)
    return term


def attention(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).softmax(-1)


def test_attention_of_heads_is_all_that_is_needed():
    assert needs_of({"m": met()}) == {HEADS}


def test_means_and_groups_of_heads_by_hand():
    x, y = attention(2, 4, 1, 1, 3), attention(2, 6, 1, 1, 3, seed=1)
    for rule, left, right in (
        ("mean", [(0, 1, 2, 3)], [(0, 1, 2, 3, 4, 5)]),
        ("groups", [(0,), (1,), (2,), (3,)], [(0, 1), (1, 2), (3, 4), (4, 5)]),
    ):
        sides = HeadPairing(rule)("gpt2", x, y, [0, 1])
        for side, whole, groups in zip(sides, (x, y), (left, right), strict=True):
            expected = torch.stack([whole[:, list(g)].mean(1) for g in groups], 1)
            torch.testing.assert_close(side, expected)


@pytest.mark.parametrize("rule", ["nearest", "hungarian"])
def test_heads_in_another_order_are_found_on_the_sample(rule):
    order = torch.tensor([2, 0, 3, 1])
    term = met({"gpt2": replace(sizes(6), query_heads=4)}, heads=rule)
    ctx = step_context(size=30)[0]
    pair = ctx.heads[0]
    shuffled = replace(pair, teacher=pair.student.detach()[:, order])
    ctx = replace(ctx, heads=[shuffled])
    assert float(term(ctx).detach()) > 0.01
    term.fit([ctx])
    assert float(term(ctx).detach()) == pytest.approx(0, abs=1e-6)
    assert float(met(heads="mean")(ctx).detach()) == pytest.approx(0, abs=1e-6)
    assert term.pairing.partners("gpt2")[1].tolist() == [order.argsort().tolist()] * 2


def test_hungarian_leaves_out_the_surplus_and_nearest_may_choose_one_twice():
    costs = {"gpt2": torch.tensor([[[1.0, 5], [0, 4], [2, 9]]])}
    pairing = HeadPairing("hungarian")
    pairing.meet(3, {"gpt2": 2}, 1)
    pairing.fit(costs)  # 1 -> 1 and 0 -> 0 cost 5, as 0 -> 1 and 1 -> 0; 2 costs more
    assert sorted(pairing.partners("gpt2")[0, 0].tolist()) == [0, 1]
    pairing = HeadPairing("nearest")
    pairing.meet(3, {"gpt2": 2}, 1)
    pairing.fit(costs)
    assert pairing.partners("gpt2")[:, 0].tolist() == [[0, 1, 2], [0, 0, 0]]


def test_pairs_are_saved_with_the_term():
    ctx = step_context(size=30)[0]
    term, again = met(heads="hungarian"), met(heads="hungarian")
    term.fit([ctx])
    again.load_state_dict(term.state_dict())
    assert torch.equal(again(ctx), term(ctx))


@pytest.mark.parametrize("distance", EVERY)
def test_no_coverage_and_no_teacher_cost_nothing(distance):
    for given in ({"covered": False}, {"teachers": False}):
        value = met(distance=distance, heads="groups")(step_context(**given)[0])
        assert float(value.detach()) == 0


@pytest.mark.parametrize("distance", EVERY)
def test_the_student_moves_and_no_teacher_does(distance):
    ctx, _, targets = step_context(size=20)
    for target in targets:
        target.requires_grad_()
    met(distance=distance, heads="nearest", keys="top:3")(ctx).backward()
    assert bool((ctx.heads[0].student.grad != 0).any())
    assert all(target.grad is None for target in targets)


def test_rows_count_by_weight_heads_evenly_by_hand():
    ctx = step_context(size=20)[0]
    total = weight = 0.0
    for pair in ctx.heads:
        mean = [side.mean(1) for side in (pair.student, pair.teacher)]
        kl = (mean[1] * (mean[1].log() - mean[0].log())).sum(-1)
        total = total + (kl * pair.weight).sum() / 2
        weight = weight + pair.weight.sum()
    torch.testing.assert_close(met()(ctx), total / weight)


def test_queries_of_teachers_that_bring_heads_are_counted():
    places = step_places(step_context()[0])
    count = count_of(met())
    (every,), (one,) = count(places), count_of(met(teachers=HEADED))(places)
    assert every == one > 0
    none = [replace(reading, heads=False) for reading in places.readings]
    assert count(replace(places, readings=none)) == [0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"distance": "mse"}, "the distance compares features, and site: attention"),
        ({"site": "keys"}, "compares rows of attention, and site: keys gives"),
        ({"projector": "linear"}, "as they are; leave projector out"),
        ({"site": "keys", "distance": "cka", "heads": "each"}, "and site is keys"),
        ({"site": "keys", "distance": "cka", "keys": "top:3"}, "and site is keys"),
        ({"pool": 4}, "as they are; leave pool out"),
        ({"scale": "layer"}, "as they are; leave scale out"),
        ({"keys": "near:3"}, "keys is 'near:3'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, problem):
    with pytest.raises(InputError, match=problem):
        Match(**{"site": "attention", "distance": "kl", **options})


def test_head_by_head_wants_as_many_heads():
    with pytest.raises(InputError) as raised:
        introduce(
            {"far": Match(site="attention", distance="kl", heads="each")},
            replace(sizes(8), query_heads=4),
            HEADED,
        )
    assert "student has 4 and teacher 'gpt2' 3; choose" in str(raised.value)


@pytest.fixture
def lesson(compared_at):
    """Whose heads a term compares."""
    return compared_at(HEADS, heads=True)


def carried_from_eager(teacher, batch, rows, alignment):
    """(L, H, B, R, T_s): what a teacher itself says it attends to, head by head."""
    tokens = encode_batch(teacher.tokenizer, batch.texts)
    pairs = LastTokenAligner()(batch, tokens)
    last = torch.full(batch.ids.shape, -1).flatten()
    last[pairs.rows] = pairs.cols % tokens.ids.shape[1]
    queries = last.view(batch.ids.shape).gather(1, rows)
    model = teacher.loaded.model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(
            tokens.ids, attention_mask=tokens.mask.long(), output_attentions=True
        ).attentions
    model.set_attn_implementation("sdpa")
    at = queries.clamp_min(0)[:, None, :, None].expand(-1, 1, -1, tokens.ids.shape[1])
    every = torch.stack(
        [x.gather(2, at.expand(-1, x.shape[1], -1, -1)) for x in attentions]
    )  # (L, B, H, R, T_t)
    heads = [carry_attention(x, alignment, rows, queries >= 0) for x in every.unbind(2)]
    return torch.stack(heads, 1)


def test_heads_are_the_models_own_on_the_student_s_tokens(lesson, school):
    batch = school.encode([sample.text for sample in school.samples[:2]])
    rows = torch.stack([m.nonzero()[[1, -1], 0] for m in batch.mask.cpu()])
    views = lesson.panel(batch, rows)
    ctx = lesson.distiller.context(batch, views, rows)
    assert [pair.name for pair in ctx.heads] == list(TAUGHT)
    lesson.model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = lesson.model(
            batch.ids, attention_mask=batch.mask.long(), output_attentions=True
        ).attentions
    lesson.model.set_attn_implementation("sdpa")
    for pair, view in zip(ctx.heads, views, strict=True):
        for layer, every in enumerate(expected):  # (B, H, T, T)
            own = torch.stack([x[:, r] for x, r in zip(every, rows, strict=True)], 1)
            torch.testing.assert_close(pair.student[layer], own, atol=1e-5, rtol=1e-4)
        held = pair.teacher.sum(-1)
        assert held.shape[1] == view.attention_heads.shape[1]
        torch.testing.assert_close(held, torch.ones_like(held))
        teacher = next(t for t in lesson.panel.teachers if t.name == view.name)
        every = carried_from_eager(teacher, batch, rows, view.alignment)
        needed = lesson.distiller._contexts.maps[view.name].needed
        torch.testing.assert_close(
            view.attention_heads, every[list(needed)], atol=1e-5, rtol=1e-4
        )


def test_gradients_are_those_without_checkpointing(lesson, school, gradients_of):
    batch = school.encode([sample.text for sample in school.samples[:2]])
    rows = torch.stack([m.nonzero()[[1, -1], 0] for m in batch.mask.cpu()])
    options = {"site": "attention", "distance": "js", "heads": "groups"}
    plain, recomputed = gradients_of(lesson, batch, rows, **options)
    assert plain.keys() == recomputed.keys() and len(plain) > 5
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, recomputed[name], rtol=1e-4, atol=1e-7)
