"""Hidden states: captured where a term asks, aligned, standardised, with gradients."""

from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from align.tokenizer_align import encode_batch
from plugins.contracts.step import step_context, step_places
from student.attention_sinks import without_sinks
from student.match import Match
from student.objective import (
    EMBEDDINGS,
    HEADS,
    HIDDEN,
    RELATIONS,
    count_of,
    needs_of,
)
from tests.student.match.conftest import TAUGHT
from tests.student.match.test_term import TEACHERS, sizes


def met(**options):
    term = Match(site="hidden", **options)
    wide = {name: replace(x, hidden_size=x.k_dim) for name, x in TEACHERS.items()}
    term.meet(replace(sizes(8), hidden_size=8), wide)
    return term


@pytest.fixture
def lesson(compared_at):
    """Whose hidden states a term compares."""
    return compared_at(HIDDEN, states=frozenset({HIDDEN}))


def test_only_hidden_states_are_needed_and_none_that_a_store_has_not():
    assert needs_of({"m": Match(site="hidden")}) == {HIDDEN}
    term = Match(site="hidden", distance="mse", projector="linear")
    term.meet(sizes(8), {"stored": replace(sizes(6), hidden_size=0), "live": sizes(9)})
    assert len(term.projectors) == len(term.scales) == 1


def test_states_are_standardised_by_the_sample_before_they_are_compared():
    term = met(distance="mse", projector="linear")
    ctx = step_context(size=60)[0]
    far = [
        replace(states, student=50 + 9 * states.student, teacher=3 * states.teacher - 7)
        for states in ctx.states
    ]
    term.fit([replace(ctx, inside={HIDDEN: far})])
    plain = met(distance="mse", projector="linear")
    plain.fit([ctx])
    near = plain(ctx)
    torch.testing.assert_close(
        term(replace(ctx, inside={HIDDEN: far})), near, rtol=1e-4, atol=0
    )
    assert 0 < float(near.detach()) < 1


def test_places_with_states_are_counted():
    places = step_places(step_context()[0])
    count = count_of(Match(site="hidden", distance="gram"))
    assert count(places) == [pytest.approx(float(places.counted.sum()))]
    none = [replace(reading, states=frozenset()) for reading in places.readings]
    assert count(replace(places, readings=none)) == [0]


def test_the_teacher_s_states_come_on_the_student_s_layers_and_tokens(lesson, school):
    batch = school.encode([sample.text for sample in school.samples[:2]])
    views = lesson.panel(batch)
    ctx = lesson.distiller.context(batch, views)
    assert [states.name for states in ctx.states] == list(TAUGHT)
    with torch.no_grad():
        output = lesson.model(
            batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True
        )
    for states, view in zip(ctx.states, views, strict=True):
        for layer, expected in enumerate(output.hidden_states[1:]):
            torch.testing.assert_close(
                states.student[layer][batch.mask], expected[batch.mask]
            )
        live = next(t for t in lesson.panel.teachers if t.name == view.name)
        tokens = encode_batch(live.tokenizer, batch.texts)
        with torch.no_grad():
            own = live.loaded.model.base_model(
                input_ids=tokens.ids,
                attention_mask=tokens.mask.long(),
                output_hidden_states=True,
            ).hidden_states
        layer_map = lesson.distiller._contexts.maps[view.name]
        dense = torch.zeros(len(tokens.ids), batch.ids.shape[1], tokens.ids.shape[1])
        pairs, (_, wide, narrow) = view.alignment, view.alignment.shape
        place = pairs.rows // wide, pairs.rows % wide, pairs.cols % narrow
        dense[place] = pairs.weights
        for layer, feeds in enumerate(layer_map):
            mixed = sum(weight * own[number + 1] for number, weight in feeds)
            torch.testing.assert_close(
                states.teacher[layer], dense @ mixed, atol=1e-5, rtol=1e-4
            )


def test_sinks_and_padding_have_no_weight_at_any_site(compared_at, school):
    sites = {HIDDEN, EMBEDDINGS, RELATIONS, HEADS}
    asked = {"states": frozenset({HIDDEN, EMBEDDINGS}), "heads": True}
    lesson = compared_at(sites, **asked)
    batch = school.encode([sample.text for sample in school.samples[:2]])
    rows = torch.tensor([[0, 3], [0, 2]])
    views = lesson.panel(batch, rows)
    ctx = lesson.distiller.context(batch, views, rows)
    clear = without_sinks(batch, views, 1)
    assert not clear[:, 0].any() and clear.any()
    compared = [*ctx.inside[HIDDEN], *ctx.inside[EMBEDDINGS], *ctx.relations]
    names = [view.name for view in views]
    for sides in compared:
        known = clear[..., names.index(sides.name)]
        assert sides.weight[known].any() and not sides.weight[~known].any()
    for pair in ctx.heads:
        known = clear[..., names.index(pair.name)].gather(1, rows)
        assert pair.weight[known].any() and not pair.weight[~known].any()


@pytest.mark.parametrize(
    ("projector", "at"),
    [
        (None, {"site": "hidden"}),
        ("linear", {"site": "hidden"}),
        (None, {"site": "hidden", "state": "both"}),
        (None, {"site": "embeddings"}),
    ],
)
def test_gradients_are_those_without_checkpointing(
    compared_at, school, gradients_of, projector, at
):
    distance = "mse" if projector else "cka"
    options = {**at, "distance": distance, "projector": projector}
    needs = Match(**options).needs
    lesson = compared_at(needs, states=needs)
    batch = school.encode([sample.text for sample in school.samples[:2]])
    plain, recomputed = gradients_of(lesson, batch, **options)
    assert plain.keys() == recomputed.keys()
    assert len(plain) > 5 or (len(plain) == 1 and at["site"] == "embeddings")
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, recomputed[name], rtol=1e-4, atol=1e-7)


def test_both_states_are_compared_side_by_side():
    ctx = step_context()[0]
    costs = {
        state: met(state=state, distance="mse", projector="linear", layers=[1])
        for state in ("residual", "normed", "both")
    }
    wide = {name: replace(x, hidden_size=x.k_dim) for name, x in TEACHERS.items()}
    assert costs["both"].projectors[0].map.weight.shape[1:] == (16, 12)
    for state, term in costs.items():
        assert term.needs == ({"residual", "normed"} if state == "both" else {state})
    twins = {name: replace(x, hidden_size=8) for name, x in wide.items()}
    twin = replace(ctx, inside={k: _twinned(s) for k, s in ctx.inside.items()})

    def cost(state):
        term = Match(site="hidden", state=state, distance="mse")
        term.meet(replace(sizes(8), hidden_size=8), twins)
        return term(twin)

    mean = (cost("residual") + cost("normed")) / 2
    torch.testing.assert_close(cost("both"), mean)
    assert not torch.equal(cost("residual"), cost("normed"))


def _twinned(sides):
    """Teachers as wide as the student."""
    return [
        replace(s, teacher=torch.nn.functional.pad(s.teacher, (0, 2))[..., :8])
        for s in sides
    ]


def test_the_teacher_s_embeddings_come_on_the_student_s_tokens(compared_at, school):
    lesson = compared_at({EMBEDDINGS}, states=frozenset({EMBEDDINGS}), layers=())
    batch = school.encode([sample.text for sample in school.samples[:2]])
    views = lesson.panel(batch)
    ctx = lesson.distiller.context(batch, views)
    assert not ctx.states
    table = lesson.model.get_input_embeddings()
    for sides, view in zip(ctx.inside[EMBEDDINGS], views, strict=True):
        torch.testing.assert_close(sides.student[0], table(batch.ids).detach())
        live = next(t for t in lesson.panel.teachers if t.name == view.name)
        tokens = encode_batch(live.tokenizer, batch.texts)
        rows = live.loaded.model.get_input_embeddings()(tokens.ids).detach()
        expected = view.alignment.apply(rows[None])[0]
        torch.testing.assert_close(sides.teacher[0], expected, atol=1e-6, rtol=1e-5)


def test_options_that_mean_nothing_at_a_site_are_refused():
    with pytest.raises(InputError, match=r"state: both .* site is keys; leave it out"):
        Match(state="both")
    with pytest.raises(InputError, match=r"embeddings are of no layer; leave layers"):
        Match(site="embeddings", distance="cka", layers="last:2")
