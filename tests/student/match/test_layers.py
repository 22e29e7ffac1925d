"""Which layers are compared, and how much each counts."""

from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from align.schedules import Timetable
from plugins.contracts.step import step_context
from student.match import DISTANCES, Match
from student.match.layers import GradientLengths, LayerChoice, layer_shares
from student.objective import HIDDEN
from tests.student.match.test_term import by_hand, met, sizes

CTX = replace(step_context()[0], place="loss.terms.x")


def chosen(layers, num_layers, step=0, **given):
    ctx = replace(CTX, step=step, **given)
    return LayerChoice(layers).chosen(num_layers, ctx)


def test_layers_are_named_by_words_and_numbers():
    assert chosen("all", 3) == [0, 1, 2]
    assert chosen("last:2", 5) == chosen({"last": 2}, 5) == [3, 4]
    assert chosen("first:2", 5) == [0, 1]
    assert chosen([-1, 0], 4, 7) == [0, 3]
    settled = ("all", "last:2", "first:2", [1, 2])
    assert all(LayerChoice(layers).settled for layers in settled)
    for layers in ("random:2", "rising:9", "gradient:2", "probe:2", {"last": RISING}):
        assert not LayerChoice(layers).settled


def test_random_layers_are_drawn_anew_for_each_step_and_alike_in_all_processes():
    drawn = [chosen("random:2", 6, step) for step in range(40)]
    assert drawn == [chosen("random:2", 6, step) for step in range(40)]
    assert all(layers == sorted(set(layers)) and len(layers) == 2 for layers in drawn)
    assert {layer for layers in drawn for layer in layers} == set(range(6))


def test_runs_of_other_seeds_and_terms_of_other_names_draw_other_layers():
    usual, *others = (
        [chosen("random:2", 6, step, **given) for step in range(40)]
        for given in (
            {},
            {"place": "loss.terms.y"},
            {"timetable": Timetable(seed=1)},
        )
    )
    for drawn in others:  # of 15 pairs one agrees by chance, in 2.7 steps of 40
        assert sum(map(list.__eq__, usual, drawn)) < 12


RISING = {"from": 1, "to": 4, "steps": 6}


def test_how_many_layers_moves_by_a_schedule_halves_rounded_up():
    timetable = Timetable()
    deep = [chosen({"last": RISING}, 5, s, timetable=timetable) for s in range(8)]
    assert [len(layers) for layers in deep] == [1, 2, 2, 3, 3, 4, 4, 4]
    assert all(layers == list(range(5 - len(layers), 5)) for layers in deep)
    assert timetable.taken() == {"loss.terms.x.layers.last": 23 / 8}
    assert LayerChoice({"last": RISING}).kept(5) == [1, 2, 3, 4]
    peaked = {**RISING, "from": 1, "rule": "three_part", "peak": 5}
    assert LayerChoice({"first": peaked}).kept(6) == [0, 1, 2, 3, 4]
    assert len(chosen({"random": RISING}, 9, 3)) == 3
    best = LayerChoice({"gradient": RISING})
    assert best.chosen(4, replace(CTX, step=2), [2, 0, 3, 1]) == [0, 2]
    assert best.chosen(4, CTX, None) == [0, 1, 2, 3]  # nothing is known of them
    term = met(distance="mse", projector="linear", layers={"last": {**RISING, "to": 2}})
    assert len(term.projectors[0].map.weight) == 2


def test_a_number_of_layers_that_cannot_be_is_refused_with_its_place():
    for count, said in (
        ({**RISING, "from": 0}, r"layers\.last\.from is 0; give"),
        ({**RISING, "to": 1.5}, r"layers\.last\.to is 1\.5; give"),
        ({"from": 2}, r"layers\.last is .* does not say 'to'"),
        ("some", r"layers\.last is 'some'"),
    ):
        with pytest.raises(InputError, match=said):
            LayerChoice({"last": count})
    with pytest.raises(InputError, match=r"layers is .*, but the student has 3 layers"):
        LayerChoice({"last": RISING}).check(3)
    wild = Timetable(rules={"wild": lambda moment: 9.0})
    layers = {"last": {**RISING, "rule": "wild"}}
    assert LayerChoice(layers).kept(5) == [0, 1, 2, 3, 4]
    said = r"x\.layers\.last: the rule wild gives 9 layers at step 2; .* 1 to 5"
    with pytest.raises(InputError, match=said):
        chosen(layers, 5, 2, timetable=wild)


def test_a_term_says_which_layers_it_compared_where_settings_do_not():
    ctx = replace(step_context()[0], place="loss.terms.m")
    term = met(distance="gram", layers="random:1")
    term(ctx)
    assert list(term.chosen.layers) == chosen("random:1", 2, place="loss.terms.m")
    assert term.chosen.weights is None
    term(step_context(teachers=False)[0])
    assert term.chosen is None
    term = met(distance="gram", layers=[1], layer_weights="gradient")
    term(ctx)
    assert term.chosen.layers is None and term.chosen.weights.tolist() == [0, 1]
    plain = met(distance="gram", layers="last:1", layer_weights="depth")
    plain(ctx)
    assert plain.chosen is None


def test_deeper_layers_may_count_more():
    like = torch.zeros(1, dtype=torch.float64)
    assert layer_shares("equal", [0, 3], like).tolist() == [0.5, 0.5]
    assert layer_shares("depth", [0, 2], like).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("most", "'most'; give all, first:K, last:K, random:K, gradient:K, probe:K, r"),
        ("last:0", "'last:0'; give all"),
        ({"top": 2}, "{'top': 2}; give all"),
        ({"last": 2, "first": 2}, "'first': 2}; give all"),
        ("last:9", "'last:9', but the student has 4 layers"),
        ([], r"\[\]; give one layer or more"),
        ([1, 1], "each once"),
        ([4], r"layer 4, but the student has layers 0..3, or -1..-4"),
        ([3, -1], "names a layer twice"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers, message):
    with pytest.raises(InputError, match=message):
        LayerChoice(layers).check(4)


def test_a_probe_finds_the_layer_that_tells_the_next_token():
    ctx = step_context(size=90)[0]
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(11, ctx.batch.ids.shape, generator=chance)  # no order in them
    ctx = replace(ctx, batch=replace(ctx.batch, ids=ids))
    batch, followed = ctx.batch, ids.roll(-1, 1)
    told = torch.nn.functional.one_hot(followed, 8 + 3)[..., :6].float()
    current = torch.nn.functional.one_hot(ids, 8 + 3)[..., :6].float()
    hidden = [
        replace(sides, teacher=torch.stack([current, told]))
        if sides.name == "gpt2"
        else sides
        for sides in ctx.states
    ]
    sample = [replace(ctx, inside={HIDDEN: hidden})]
    wide = {"gpt2": replace(sizes(8), hidden_size=6)}
    for turned, layer in ((False, 1), (True, 0)):
        if turned:
            hidden[0] = replace(hidden[0], teacher=hidden[0].teacher.flip(0))
        term = Match(
            site="hidden",
            distance="mse",
            projector="linear",
            layers="probe:1",
            teachers=["gpt2"],
        )
        term.meet(replace(sizes(8), hidden_size=8), wide)
        assert term._ranked() == [1, 0]  # the last, before it is known
        term.fit(sample)
        assert term.state_dict()["probed"].tolist() == [layer, 1 - layer]
        assert float(term(sample[0]).detach()) > 0
        assert list(term.chosen.layers) == [layer]
    assert batch.predicted.any()
    with pytest.raises(InputError, match="no features that a probe"):
        Match(site="attention", distance="kl", layers="probe:1")
    with pytest.raises(InputError, match="the student has 2 layers"):
        Match(layers="probe:3").meet(sizes(8), {})


def test_layers_rise_from_the_lowest_to_all():
    counts = [chosen("rising:8", 4, step) for step in range(10)]
    assert [len(x) for x in counts] == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    assert counts[2] == [0, 1]
    assert chosen("rising:1", 4) == [0, 1, 2, 3]
    LayerChoice("rising:100").check(4)
    assert LayerChoice("rising:100").kept(4) == [0, 1, 2, 3]


def lengths_by_hand(ctx, distance):
    """Of every layer, over teachers: the gradient of what its tokens cost."""
    total = torch.zeros(2)
    for relation in ctx.relations:
        x = relation.student_k
        weight = relation.weight.expand(len(x), -1, -1)
        apart = distance(x, relation.teacher_k, weight) * weight
        costs = apart.sum((1, 2))
        (gradients,) = torch.autograd.grad(costs.sum(), x)
        total += gradients.flatten(1).square().sum(1)
    return total.sqrt()


def test_layers_weigh_by_the_gradient_that_they_got_before():
    ctx, gram = step_context()[0], DISTANCES["gram"]()
    term = met(site="keys", distance="gram", layer_weights="gradient")
    equal = met(site="keys", distance="gram")
    torch.testing.assert_close(term(ctx), equal(ctx))
    lengths = lengths_by_hand(ctx, gram)
    shares = (lengths / lengths.sum()).tolist()
    assert abs(shares[0] - 0.5) > 0.005
    later = replace(ctx, step=1)
    for _ in range(2):  # one pass of a step after another finds the same weights
        expected = by_hand(ctx, "k", gram, shares=shares)
        torch.testing.assert_close(term(later), expected)
    other = step_context(size=9)[0]
    term(replace(other, step=2))
    again = lengths_by_hand(other, gram)
    mixed = 0.9 * torch.tensor(shares) + 0.1 * again / again.sum()
    term(replace(ctx, step=3))
    torch.testing.assert_close(term.lengths.mean, mixed)


def test_the_layers_of_the_longest_gradients_are_compared_with_projectors_for_all():
    ctx = step_context()[0]
    options = {"site": "keys", "distance": "mse", "projector": "linear"}
    term = met(**options, layers="gradient:1")
    torch.testing.assert_close(term(ctx), met(**options)(ctx))
    term.lengths.mean.copy_(torch.tensor([0.2, 0.8]))
    assert len(term.projectors[0].map.weight) == 2
    deepest = met(**options, layers=[1])
    with torch.no_grad():
        for ours, theirs in zip(deepest.projectors, term.projectors, strict=True):
            ours.map.weight.copy_(theirs.map.weight[1:])
    torch.testing.assert_close(term(ctx), deepest(ctx))
    term(ctx).backward()
    deep = ctx.relations[0].student_k.grad
    assert not deep[0].any() and deep[1].any()


@pytest.mark.parametrize("layers", ["all", {"gradient": {**RISING, "to": 2}}])
def test_what_gradients_said_is_saved_and_goes_on_bit_for_bit(layers):
    options = {"distance": "gram", "layer_weights": "gradient", "layers": layers}
    whole, first = met(**options), met(**options)
    steps = [
        replace(step_context(size=size)[0], step=step)
        for step, size in enumerate((5, 9, 7, 12))
    ]
    values = [whole(ctx) for ctx in steps]
    for ctx in steps[:2]:
        first(ctx)
    resumed = met(**options)
    resumed.load_state_dict(first.state_dict())
    assert all(
        torch.equal(resumed(ctx), value)
        for ctx, value in zip(steps[2:], values[2:], strict=True)
    )


def test_gradient_lengths_are_those_of_the_whole_step_however_it_is_split():
    features = torch.randn(2, 6, 3, 4, requires_grad=True)
    whole, split = GradientLengths(2), GradientLengths(2)
    for lengths, size in ((whole, 6), (split, 1)):
        lengths.turn(0)
        for part in features.split(size, 1):
            costs = part.pow(3).sum((1, 2, 3))
            lengths.gather(lengths.of(costs, part, [0, 1]), list)
        lengths.turn(1)
    torch.testing.assert_close(split.mean, whole.mean)
    norms = (3 * features.detach().square()).flatten(1).norm(dim=1)
    torch.testing.assert_close(whole.mean, norms / norms.sum())


def test_gradients_of_all_processes_count_and_those_of_no_training_do_not():
    term = met(distance="gram", layer_weights="gradient")
    ctx = replace(step_context()[0], over_processes=lambda x: [9.0, 1.0])
    term(ctx)
    term(replace(ctx, step=1))
    assert term.lengths.mean.tolist() == [0.75, 0.25]  # roots of the sums of squares
    with torch.no_grad():
        term(replace(ctx, step=1))
    assert term.lengths.squares.tolist() == [9.0, 1.0]
    uncovered = met(distance="gram", layer_weights="gradient")
    for step in range(3):
        value = uncovered(replace(step_context(covered=False)[0], step=step))
        assert float(value.detach()) == 0
