"""The term ``match``: whom it compares, where, by what, and what it weighs."""

from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from align.sizes import Sizes
from plugins.contracts.step import step_context, step_places
from student.match import DISTANCES, PROJECTORS, Match
from student.match.distance import of_rows
from student.objective import KEYS_VALUES, RELATIONS, count_of, needs_of
from student.step.context import introduce

NAMES = ("gpt2", "qwen")
"""The context's teachers, 6 and 10 wide; the student is 8 wide."""

FEATURES = sorted(name for name, made in DISTANCES.items() if not of_rows(made))


def sizes(width, layers=2):
    return Sizes(layers=layers, heads=1, k_dim=width, v_dim=width, hidden_size=16)


TEACHERS = {"gpt2": sizes(6), "qwen": sizes(10)}


def met(**options):
    term = Match(**options)
    term.meet(sizes(8), TEACHERS)
    return term


def by_hand(ctx, side, distance, teachers=NAMES, layers=(0, 1), shares=(0.5, 0.5)):
    """Mean over tokens by weight, over layers by share, of a distance of equal widths,
    the student cut or filled up to the teacher's."""
    total = weight = 0.0
    for relation in ctx.relations:
        if relation.name not in teachers:
            continue
        x, y = (getattr(relation, f"{who}_{side}") for who in ("student", "teacher"))
        weights = relation.weight.expand(len(x), -1, -1)
        apart = distance(x, y, weights)
        for layer, share in zip(layers, shares, strict=True):
            total = total + share * (apart[layer] * weights[layer]).sum()
            weight = weight + share * weights[layer].sum()
    return total / weight


@pytest.mark.parametrize(("site", "side"), [("keys", "k"), ("values", "v")])
def test_a_site_s_tokens_count_by_weight_and_its_layers_by_share(site, side):
    ctx, gram = step_context()[0], DISTANCES["gram"]()
    plain = met(site=site, distance="gram")(ctx)
    torch.testing.assert_close(plain, by_hand(ctx, side, gram))
    deep = met(site=site, distance="gram", layer_weights="depth")(ctx)
    torch.testing.assert_close(deep, by_hand(ctx, side, gram, shares=(1 / 3, 2 / 3)))
    last = met(site=site, distance="gram", layers=[-1], teachers=["qwen"])(ctx)
    expected = by_hand(ctx, side, gram, teachers=["qwen"], layers=(1,), shares=(1,))
    torch.testing.assert_close(last, expected)


def test_a_statistic_counts_by_what_its_teacher_weighs():
    ctx = step_context()[0]
    each = [met(distance="cka", teachers=[name])(ctx) for name in NAMES]
    weighs = [relation.weight.sum() for relation in ctx.relations]
    expected = sum(c * w for c, w in zip(each, weighs, strict=True)) / sum(weighs)
    torch.testing.assert_close(met(distance="cka")(ctx), expected)


def test_only_a_mean_over_tokens_counts_its_places():
    context = step_context()[0]
    places = step_places(context)
    assert count_of(Match(distance="cka")) is None
    counts = [
        count_of(Match(distance="gram", teachers=t))(places) for t in (None, ["qwen"])
    ]
    weighs = [float(relation.weight.sum()) for relation in context.relations]
    assert counts == [pytest.approx([sum(weighs)]), pytest.approx(weighs[1:])]


def test_keys_and_values_are_captured_where_a_match_compares_them():
    assert needs_of({"m": Match()}) == {RELATIONS, KEYS_VALUES}


@pytest.mark.parametrize("projector", sorted(PROJECTORS))
def test_a_projector_of_each_teacher_learns_and_the_teacher_stands_still(projector):
    chosen = {"use": projector, "rank": 3} if projector == "pca" else projector
    term = met(distance="mse", projector=chosen)
    ctx, _, targets = step_context()
    for target in targets:
        target.requires_grad_()
    term(ctx).backward()
    assert len(term.projectors) == 2
    assert all(p.grad is not None for p in term.parameters())
    keys = [relation.student_k for relation in ctx.relations]
    assert all(bool((k.grad != 0).any()) for k in keys)
    assert all(target.grad is None for target in targets)


def test_projectors_are_fitted_on_a_sample_of_covered_tokens():
    term = met(distance="mse", projector="linear")
    ctx = step_context(size=120)[0]
    before = float(term(ctx).detach())
    term.fit([step_context(size=size)[0] for size in (120, None)])
    after = float(term(ctx).detach())
    assert after < 0.98 < before  # the teachers' variance is 1
    term = met(distance="mse", projector="linear")
    begin = [p.detach().clone() for p in term.parameters()]
    term.fit([step_context(covered=False)[0]])
    assert all(map(torch.equal, begin, term.parameters()))


def test_random_layers_change_from_step_to_step_with_projectors_for_all():
    term = met(distance="mse", projector="linear", layers="random:1")
    ctx = step_context()[0]
    values = [float(term(replace(ctx, step=step)).detach()) for step in range(8)]
    assert len({round(value, 6) for value in values}) == 2
    assert len(term.projectors[0].map.weight) == 2
    assert len(met(projector="linear", layers=[0]).projectors[0].map.weight) == 1


@pytest.mark.parametrize("distance", FEATURES)
def test_no_coverage_and_no_teacher_cost_nothing(distance):
    projector = None if distance in ("cka", "gram") else "linear"
    for given in ({"covered": False}, {"teachers": False}):
        value = met(distance=distance, projector=projector)(step_context(**given)[0])
        assert float(value.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distance", FEATURES)
def test_narrow_features_and_autocast_stay_finite(distance):
    term = met(distance=distance, projector="linear")
    ctx, student, _ = step_context()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = term(ctx)
    assert value.dtype == torch.float32 and value.isfinite()
    value.backward()
    assert all(x.grad.isfinite().all() for x in student if x.grad is not None)


def test_unlike_widths_need_a_projector_or_a_distance_of_any_widths():
    with pytest.raises(InputError) as raised:
        introduce({"far": Match(distance="mse")}, sizes(8), TEACHERS)
    told = str(raised.value)
    assert told.startswith("loss.terms.far: keys are 8 wide in the student and 6 in")
    assert "'gpt2'" in told and "linear" in told and "cka" in told
    Match(distance="mse").meet(sizes(8), {"twin": sizes(8)})
    Match(distance="mse", teachers=["twin"]).meet(
        sizes(8), {"twin": sizes(8), **TEACHERS}
    )


def test_where_none_of_its_teachers_takes_part_a_term_costs_nothing():
    term = met(teachers=["bert"], distance="mse", projector="linear")
    assert float(term(step_context()[0]).detach()) == 0
    assert not list(term.parameters())


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"layer 2, but the student has layers 0..1"):
        met(layers=[2])
    with pytest.raises(InputError, match="'words'"):
        Match(layers="words")


def test_options_of_a_distance_are_what_they_are_at_the_step():
    def smooth(beta):
        return met(distance={"use": "smooth_l1", "beta": beta}, projector="linear")

    ctx = replace(step_context()[0], step=2, place="loss.terms.x")
    moving, still = smooth({"from": 2.0, "to": 0.5, "steps": 4}), smooth(1.25)
    still.load_state_dict(moving.state_dict())
    torch.testing.assert_close(moving(ctx), still(ctx), rtol=0, atol=0)
    assert ctx.timetable.taken() == {"loss.terms.x.distance.beta": 1.25}
    assert not torch.equal(moving(replace(ctx, step=0)), moving(ctx))
