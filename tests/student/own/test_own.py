"""Terms that ask no teacher: formulas, padding, where they stay, second readings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from align.errors import InputError
from align.schedules import Timetable
from align.sizes import Sizes
from align.support.digest import seed_of
from align.views import LinearHead
from plugins.contracts.check import check
from plugins.contracts.step import step_context, step_places
from student.objective import (
    HIDDEN,
    NORMED,
    RESIDUAL,
    HiddenOutput,
    LastStates,
    Reread,
    alone,
    compares,
    count_of,
    needs_of,
)
from student.own import OWN, Activations, DeepSupervision, Mixup, Smoothness
from student.terms.key_value import ce

SIZES = Sizes(layers=2, heads=1, k_dim=8, v_dim=8, hidden_size=8)


@pytest.mark.parametrize("name", ["activations", "mixup", "smoothness"])
def test_they_keep_the_contract_of_objectives(name):
    broken = [c for c in check("objective", OWN[name]) if not c.ok]
    assert not broken, broken


def double(ctx):
    own = {s: x.detach().double().requires_grad_() for s, x in ctx.own.items()}
    return replace(ctx, own=own)


@pytest.mark.parametrize("penalty", ["l1", "l2", "slow", "correlation"])
def test_penalties_are_numpys_on_text_tokens_alone(penalty):
    ctx = double(step_context(size=12)[0])
    states = ctx.own[NORMED].detach().numpy()
    known = ctx.batch.has_text.numpy() & (ctx.batch.mask.numpy().cumsum(1) > 2)
    sums, every = np.zeros(2), 0
    for layer in range(2):
        if penalty == "correlation":
            c = np.corrcoef(states[layer][known].T)
            sums[layer] = (c**2)[~np.eye(8, dtype=bool)].mean()
            every = 1
            continue
        costs = []
        for b, row in enumerate(states[layer]):
            for t in np.flatnonzero(known[b]):
                if penalty == "slow":
                    if t and known[b, t - 1]:
                        costs.append(((row[t] - row[t - 1]) ** 2).mean())
                else:
                    power = {"l1": np.abs, "l2": np.square}[penalty]
                    costs.append(power(row[t]).mean())
        sums[layer], every = sum(costs), len(costs)
    term = Activations(penalty=penalty, skip=2)
    value = float(term(ctx).detach())
    assert value == pytest.approx(sums.mean() / every, rel=1e-9)
    deep = Activations(penalty=penalty, layer_weights="depth", skip=2)(ctx)
    assert float(deep.detach()) == pytest.approx((sums / every) @ [1 / 3, 2 / 3])
    (gradient,) = torch.autograd.grad(term(ctx), ctx.own[NORMED])
    assert bool((gradient[:, ~torch.from_numpy(known)] == 0).all())
    if penalty != "correlation":
        assert count_of(term)(step_places(ctx)) == [every]


@pytest.mark.parametrize(
    "term",
    [*(Activations(penalty=each) for each in ("l1", "l2", "slow")), Smoothness()],
    ids=["l1", "l2", "slow", "smoothness"],
)
def test_tokens_count_as_their_text_does(term):
    ctx = double(step_context(size=12)[0])
    first = ctx.batch.mask.clone()
    first[1:] = False
    spans = ctx.batch.spans * first[..., None]
    alone = replace(ctx, batch=replace(ctx.batch, mask=first, spans=spans))
    weight = torch.zeros(len(first))
    weight[0] = 0.5
    heavy = replace(ctx, batch=replace(ctx.batch, weight=weight))
    torch.testing.assert_close(term(heavy), term(alone))
    (half,) = count_of(term)(step_places(heavy))
    assert 2 * half == pytest.approx(count_of(term)(step_places(alone))[0])


def test_unlike_channels_cost_nothing_and_channels_that_stand_still_neither():
    ctx, signs = step_context(size=16)[0], torch.ones(2, 2, 17, 8)
    for channel in range(3):  # Walsh's functions of the text's 16 tokens
        turns = (torch.arange(16) >> channel) % 2 == 1
        signs[:, :, 1:, channel] *= torch.where(turns, -1.0, 1.0)
    first = ctx.batch.mask.clone()
    first[1] = False
    batch = replace(ctx.batch, mask=first, spans=ctx.batch.spans * first[..., None])
    term = Activations(penalty="correlation", skip=0)
    still = replace(ctx, batch=batch, own={NORMED: signs.requires_grad_()})
    assert float(term(still).detach()) == pytest.approx(0, abs=1e-6)
    same = torch.randn(2, 2, 17, 1).expand(-1, -1, -1, 8)
    alike = replace(ctx, batch=batch, own={NORMED: same})
    assert float(term(alike)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("penalty", ["l1", "l2", "slow", "correlation"])
def test_gradients_hold_and_empty_texts_and_bf16_stay_finite(penalty):
    ctx = double(step_context(size=4)[0])
    term = Activations(penalty=penalty, state="residual", layers=[-1])
    assert term.needs == {RESIDUAL}

    def of(x):
        return term(replace(ctx, own={RESIDUAL: x}))

    assert torch.autograd.gradcheck(of, ctx.own[RESIDUAL])
    assert float(of(ctx.own[RESIDUAL].bfloat16()).detach()) > 0
    blank = replace(ctx.batch, mask=torch.zeros_like(ctx.batch.mask))
    empty = replace(ctx, batch=replace(blank, spans=blank.spans * 0))
    value = term(empty)
    value.backward()
    assert float(value.detach()) == 0 and ctx.own[RESIDUAL].grad.isfinite().all()


def test_they_need_the_student_alone():
    terms = {
        "a": Activations(state="given"),
        "d": DeepSupervision(),
        "m": Mixup(),
        "s": Smoothness(),
    }
    assert needs_of(terms) == {HIDDEN, NORMED}
    assert all(alone(term) and not compares(term) for term in terms.values())

    class Asking(Activations):
        needs = frozenset({"outputs"})

        def __init__(self):
            pass

    with pytest.raises(InputError, match=r"'x' is alone, without teachers.*outputs"):
        needs_of({"x": Asking()})
    for made in (Activations, DeepSupervision):
        with pytest.raises(InputError, match="what a comparison finds"):
            made(layers="gradient:1")
        with pytest.raises(InputError, match=r"layers 0\.\.1"):
            made(layers=[5]).meet(SIZES, {})


def predicted_losses(logits, ids, predicted):
    rows = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return -(rows * predicted[:, 1:]).sum()


def test_layers_predict_through_the_student_s_own_head():
    ctx = step_context()[0]
    head = ctx.outputs.student.matrix
    hidden = ctx.own[NORMED][1]
    ctx = replace(ctx, output=HiddenOutput(hidden, head))
    batch, total = ctx.batch, ctx.batch.predicted[:, 1:].sum()
    vectors = head.weight.detach().T
    losses = [
        float(predicted_losses(x @ vectors, batch.ids, batch.predicted) / total)
        for x in ctx.own[NORMED].detach()
    ]
    term = DeepSupervision(layers=[0, 1])
    term.meet(SIZES, {})
    expected = {
        "equal": sum(losses) / 2,
        "depth": (losses[0] + 2 * losses[1]) / 3,
        "exponential": (losses[0] + 2 * losses[1]) / 3,
    }
    for weights, value in expected.items():
        term._layer_weights = weights
        assert float(term(ctx).detach()) == pytest.approx(value, rel=1e-5), weights
    by_loss = DeepSupervision(layers=[0, 1], layer_weights="loss")
    by_loss.meet(SIZES, {})
    better = np.exp(-np.array(losses))
    for step, weights in ((1, [1, 1]), (1, [1, 1]), (2, better**2), (3, better)):
        value = float(by_loss(replace(ctx, step=step)).detach())
        expected_value = np.average(losses, weights=weights)  # two passes in step 1
        assert value == pytest.approx(expected_value, rel=1e-5), step
    fresh = DeepSupervision(layers=[0, 1], layer_weights="loss")
    fresh.meet(SIZES, {})
    fresh.load_state_dict(by_loss.state_dict())
    both = [float(t(replace(ctx, step=4)).detach()) for t in (fresh, by_loss)]
    assert both[0] == both[1]
    below = DeepSupervision()
    below.meet(SIZES, {})
    value = below(ctx)
    assert float(value.detach()) == pytest.approx(losses[0], rel=1e-5)
    value.backward()
    gradient = below.maps.grad
    assert bool((gradient[0] != 0).any()) and not bool(gradient[1].any())
    last = DeepSupervision(layers=[-1])
    last.meet(SIZES, {})
    torch.testing.assert_close(last(ctx), ce(ctx))
    with pytest.raises(InputError, match="zero_stage=2"):
        below(replace(ctx, output=ctx.logits))


def test_shares_of_layers_by_hand():
    losses = torch.tensor([3.0, 2.0, 1.0, 1.0])
    layers = [0, 1, 3]
    ctx = step_context()[0]
    for weights, expected in {
        "equal": [1 / 3] * 3,
        "depth": [1 / 7, 2 / 7, 4 / 7],
        "exponential": [1 / 11, 2 / 11, 8 / 11],
    }.items():
        term = DeepSupervision(layer_weights=weights)
        assert term._shares(layers, losses, ctx).tolist() == pytest.approx(expected)


def test_mixed_texts_are_predicted_both_by_their_shares():
    ctx, alpha, step = step_context(size=5)[0], 2.0, 3
    ctx = replace(ctx, step=step)
    seed = seed_of(ctx.timetable.seed, ctx.place, step)
    share = np.random.default_rng(seed).beta(alpha, alpha)
    seen = {}
    read = ctx.reread.read

    def watched(change, mask):
        seen["mask"], seen["of"] = mask, change
        return read(change, mask)

    ctx = replace(ctx, reread=replace(ctx.reread, read=watched))
    value = float(Mixup(alpha=alpha)(ctx).detach())
    long, short = (int(n) for n in ctx.batch.mask.sum(1))
    assert long > short and bool(seen["mask"].all())
    e = torch.tensor([[[1.0]] * long, [[5.0]] * long])
    first, second = seen["of"](e)
    both = share * 1 + (1 - share) * 5, share * 5 + (1 - share) * 1
    torch.testing.assert_close(first[:short], torch.full((short, 1), both[0]))
    torch.testing.assert_close(second[:short], torch.full((short, 1), both[1]))
    assert bool((first[short:] == 1).all()) and bool((second[short:] == 1).all())
    logits = read(seen["of"], seen["mask"]).output.detach()
    batch = ctx.batch
    expected = share * predicted_losses(logits, batch.ids, batch.predicted)
    expected += (1 - share) * predicted_losses(
        logits, batch.ids.roll(1, 0), batch.predicted.roll(1, 0)
    )
    expected = float(expected / batch.predicted[:, 1:].sum())
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [Mixup, Smoothness])
def test_what_is_drawn_goes_by_seed_name_and_step_and_by_nothing_else(kind):
    ctx = step_context(size=5)[0]

    def value(seed=0, place="loss.terms.a", step=1):
        timetable = Timetable(seed=seed)
        there = replace(ctx, timetable=timetable, place=place, step=step)
        return float(kind()(there).detach())

    assert value() == value()
    others = [value(seed=1), value(place="loss.terms.b"), value(step=2)]
    assert len({value(), *others}) == 4


def test_smoothness_is_a_squared_stretch_and_a_linear_student_s_is_its_own():
    ctx = step_context(size=40)[0]
    scaled = replace(
        ctx.reread,
        hidden=3 * (first := torch.randn(2, 41, 8)),
        read=lambda change, mask: replace(
            ctx.reread.read(change, mask), hidden=3 * change(first)
        ),
    )
    for radius in (0.01, 0.3):
        value = Smoothness(radius=radius)(replace(ctx, reread=scaled))
        assert float(value) == pytest.approx(1, rel=1e-3)
    value = Smoothness()(ctx)
    value.backward()
    assert float(value.detach()) > 0


@pytest.mark.parametrize("name", ["mixup", "mixup of logits", "deep_supervision"])
def test_gradients_of_next_tokens_hold(name):
    ctx = replace(step_context(size=3)[0], step=3)
    drawn = torch.Generator().manual_seed(1)
    shapes = {"states": (2, 2, 4, 8), "head": (ctx.logits.shape[-1], 8), "e": (2, 4, 8)}
    leaves = [
        torch.randn(shape, generator=drawn, dtype=torch.float64).requires_grad_()
        for shape in shapes.values()
    ]
    deep = DeepSupervision(layers=[0, 1], layer_weights="exponential")
    deep.meet(SIZES, {})
    turns = torch.eye(8, dtype=torch.float64) + 0.1
    deep.maps = torch.nn.Parameter(turns.expand(2, -1, -1).clone())

    def of(states, head, e, maps):
        deep.maps, matrix = maps, LinearHead(head)

        def read(change, mask):
            hidden = (change(e) * mask[..., None]).tanh()
            whole = hidden @ head.T if name.endswith("logits") else None
            return LastStates(
                hidden, HiddenOutput(hidden, matrix) if whole is None else whole
            )

        if name == "deep_supervision":
            output = HiddenOutput(states[1], matrix)
            return deep(replace(ctx, own={NORMED: states}, output=output))
        return Mixup(alpha=2.0)(replace(ctx, reread=Reread(e.tanh(), read)))

    assert torch.autograd.gradcheck(of, (*leaves, deep.maps), fast_mode=True)


def test_gradients_of_smoothness_hold_with_its_lengths_held():
    ctx, radius = step_context(size=3)[0], 0.3
    drawn = torch.Generator().manual_seed(1)
    first, moved = torch.randn(2, 2, 4, 8, generator=drawn, dtype=torch.float64)
    first.requires_grad_(), moved.requires_grad_()

    def of(moved):
        def read(change, mask):
            return LastStates(moved, moved)

        return Smoothness(radius=radius)(replace(ctx, reread=Reread(first, read)))

    assert torch.autograd.gradcheck(of, moved)
    known = ctx.batch.has_text[..., None]
    length = first.detach().square().sum(-1, keepdim=True) * radius**2 * known.sum()
    (gradient,) = torch.autograd.grad(of(moved), first)
    expected = torch.where(known, 2 * (first - moved) / length, 0.0)
    torch.testing.assert_close(gradient, expected)


def test_a_real_student_is_read_again_with_other_embeddings(school):
    lesson = school.lesson(None)
    batch = school.batch(3)
    distiller = lesson.distiller.eval()
    with torch.no_grad():
        ctx = distiller._contexts.alone(distiller._student_pass.look(batch), batch, 0)
        table = lesson.model.get_input_embeddings()
        same = ctx.reread(lambda e: e, batch.mask)
        torch.testing.assert_close(same.hidden, ctx.reread.hidden)
        flipped = table(batch.ids.flip(1))
        other = ctx.reread(lambda e: flipped, batch.mask)
        expected = lesson.model(
            inputs_embeds=flipped, attention_mask=batch.mask.long()
        ).logits
    said = other.output
    logits = said.logits if isinstance(said, HiddenOutput) else said
    torch.testing.assert_close(logits[batch.mask], expected[batch.mask])
    assert not table._forward_hooks  # the student is left as it was
    term = Mixup(alpha=50.0)
    loss = term(
        distiller._contexts.alone(distiller._student_pass.look(batch), batch, 0)
    )
    loss.backward()
    gradients = [p.grad for p in lesson.model.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    one = school.encode([batch.texts[0]])
    ctx = distiller._contexts.alone(distiller._student_pass.look(one), one, 0)
    torch.testing.assert_close(term(ctx), ce(ctx))


@pytest.mark.parametrize(("kind", "option"), [(Mixup, "alpha"), (Smoothness, "radius")])
def test_their_numbers_may_move(kind, option):
    ctx = replace(step_context()[0], step=2)
    moving = kind(**{option: {"from": 1.0, "to": 2.0, "steps": 4}})
    assert torch.equal(moving(ctx), kind(**{option: 1.5})(ctx))
    assert ctx.timetable.taken() == {f"loss.{option}": 1.5}
