"""Who learns from what, and what a step leaves out."""

import threading
from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from align.text.conversation import Conversation
from align.time_align import Alignment
from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner, encode_batch
from align.views import Injection
from student.config import LossConfig
from student.objective import HiddenOutput, StepContext, Term
from student.terms.key_value import OBJECTIVES
from student.trained import frozen
from teacher.capture.kv_capture import KVCapture
from teacher.output_head import linear_head
from tests.everyday import some_daily

KV_ONLY = {"lambda_k": 1.0, "lambda_v": 1.0, "beta_cos": 0.1}


def gradients(module: torch.nn.Module) -> dict[str, float]:
    """The gradient's size of every parameter that got one, by name."""
    return {
        name: float(p.grad.abs().sum())
        for name, p in module.named_parameters()
        if p.grad is not None
    }


def learners(lesson, batch, step: int = 0) -> set[str]:
    """The parts that a step gives a gradient other than zero."""
    lesson.distiller.zero_grad()
    lesson.run(batch, step).loss.backward()
    return {
        name.split(".")[0] if not name.startswith("bridge") else name.split(".")[1]
        for name, size in gradients(lesson.distiller).items()
        if size > 0
    }


def mean_weights(routing):
    """Mean over the tokens that some teacher covers, (M,)."""
    return routing[routing.sum(-1) > 0].mean(0)


@pytest.mark.parametrize("kind", ["adapter", "projector", "latent"])
def test_the_outcome_teaches_bridge_and_router_but_never_the_student(
    school, only, kind
):
    """Fails when the outcome pass runs outside of ``frozen``."""
    lesson = school.lesson(
        kind, loss=only(eta_outcome=1.0, router_signal="outcome"), routed=True
    )
    # A fresh router is uniform and blind: its scores start at zero weight.
    lesson.distiller._regularizer = None
    for parameter in lesson.distiller.weigher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    lesson.bridge.auxiliary = lambda kv, views, share: {}
    found = learners(lesson, school.batch())
    expected = {"gate_logit", "weigher", "z" if kind == "latent" else "adapter"}
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("adapter", {"student"}),
        ("projector", {"student", "project_k", "project_v"}),
        ("latent", {"student"}),
    ],
)
def test_the_kv_distance_teaches_student_and_projector_only(
    school, only, kind, expected
):
    """Facts 10 and 14. Fails when AdapterBridge.compare loses its ``no_grad`` (the
    adapter learns), when LatentBridge.compare loses ``frozen`` (Z learns), or
    when Distiller stops detaching the weights (the router learns)."""
    lesson = school.lesson(kind, loss=only(**KV_ONLY), routed=True)
    lesson.distiller._config = replace(
        lesson.distiller._config, router_signal="outcome"
    )
    lesson.distiller._regularizer = None
    for parameter in lesson.distiller.weigher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    lesson.bridge.auxiliary = lambda kv, views, share: {}
    assert learners(lesson, school.batch()) == expected


def test_attention_and_relations_teach_the_student_only(school, only):
    lesson = school.lesson(
        "projector",
        loss=only(gamma_kl=1.0, relation_k=1.0, relation_v=1.0),
        routed=True,
    )
    lesson.distiller._regularizer = None
    lesson.distiller._config = replace(
        lesson.distiller._config, router_signal="outcome"
    )
    result = lesson.run(school.batch())
    assert all(float(result.terms[n]) > 0 for n in ("attention_kl", "relation_k"))
    assert learners(lesson, school.batch()) == {"student"}


def test_the_latents_own_losses_teach_its_coders_and_not_the_student(school, only):
    lesson = school.lesson("latent", loss=only(delta_ce=1e-9))
    assert lesson.distiller.student is lesson.model
    with frozen(lesson.model):
        batch = school.batch()
        seen = lesson.capture(batch.ids, batch.mask)
    kv = replace(seen.kv, k=seen.kv.k.requires_grad_(), v=seen.kv.v.requires_grad_())
    losses = lesson.bridge.auxiliary(kv, lesson.panel(batch))
    assert set(losses) == {"z_reconstruction", "z_agreement"}
    sum(losses.values()).backward()
    assert gradients(lesson.bridge.z)
    assert kv.k.grad is None and kv.v.grad is None


def test_weights_of_the_latents_own_losses_move(school, only):
    lesson = school.lesson("latent", loss=only(delta_ce=1.0))
    moving = {"from": 2.0, "to": 0.0, "steps": 4}
    plain = lesson.run(school.batch(), step=2).terms
    lesson.bridge._weights = {"z_reconstruction": moving, "z_agreement": 0.4}
    terms = lesson.run(school.batch(), step=2).terms  # 2 -> 1 halfway
    values = {name: float(terms[name]) for name in lesson.bridge._weights}
    assert values == pytest.approx(
        {
            "z_reconstruction": float(plain["z_reconstruction"]),  # by default 1
            "z_agreement": 4 * float(plain["z_agreement"]),  # by default 0.1
        }
    )
    lesson.distiller.timetable.taken()
    last = lesson.run(school.batch(), step=4).terms
    assert float(last["z_reconstruction"]) == 0
    assert lesson.distiller.timetable.taken()["fuse.lambda_reconstruction"] == 0


@pytest.mark.parametrize("signal", ["outcome", "teacher_loss", "both"])
def test_a_router_follows_the_signal_that_was_chosen(school, only, signal):
    lesson = school.lesson(
        loss=only(delta_ce=1e-9, eta_outcome=1.0, router_signal=signal), routed=True
    )
    lesson.distiller._regularizer = None
    result = lesson.run(school.batch())
    assert ("teacher_loss" in result.terms) == (signal != "outcome")
    # away from outcome steps only the teachers' own loss is left
    off_beat = learners(lesson, school.batch(), step=1)
    assert ("weigher" in off_beat) == (signal != "outcome")


def test_the_teachers_own_loss_moves_weight_to_the_better_reader(school, only):
    lesson = school.lesson(
        loss=only(delta_ce=1e-9, router_signal="teacher_loss"), routed=True
    )
    lesson.distiller._regularizer = None
    batch = school.batch()
    views = lesson.panel(batch)
    better = torch.stack([v.bits_per_char for v in views], -1).mean(0).argmin()
    optimizer = torch.optim.SGD(lesson.distiller.weigher.parameters(), lr=0.5)
    before = mean_weights(lesson.run(batch).routing)
    torch.testing.assert_close(before, torch.tensor([0.5, 0.5]))
    for _ in range(10):
        optimizer.zero_grad()
        lesson.run(batch, step=1).loss.backward()
        optimizer.step()
    assert mean_weights(lesson.run(batch, step=1).routing).argmax() == better


def test_gradients_are_equal_with_and_without_gradient_checkpointing(school, only):
    """Fact 3. Fails when capture records without a gradient, and when an injected pass
    is recomputed, because the recomputation would read the student's own KV."""
    batch, found = school.batch(), []
    loss = only(**KV_ONLY, gamma_kl=0.1, eta_outcome=1.0, outcome_layers="all")
    for checkpointing in (False, True):
        lesson = school.lesson("projector", loss=loss)
        if checkpointing:
            lesson.model.gradient_checkpointing_enable({"use_reentrant": False})
        lesson.model.train()
        lesson.run(batch).loss.backward()
        found.append({n: p.grad for n, p in lesson.distiller.named_parameters()})
    plain, recomputed = found
    for part in ("student.model.layers.0", "bridge.project_k", "bridge.adapter"):
        assert any(float(plain[n].abs().sum()) > 0 for n in plain if n.startswith(part))
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


def test_reentrant_checkpointing_is_refused(school, only):
    lesson = school.lesson(loss=only(**KV_ONLY))
    lesson.model.gradient_checkpointing_enable({"use_reentrant": True})
    lesson.model.train()
    with pytest.raises(ValueError, match=r"re-?entrant"):
        lesson.run(school.batch()).loss.backward()


def uncover(view, tokens: torch.Tensor):
    """The same view with nothing aligned to these (B, T) student tokens."""
    pairs = view.alignment
    keep = ~tokens.view(-1)[pairs.rows]
    cut = Alignment(
        pairs.rows[keep], pairs.cols[keep], pairs.weights[keep], pairs.shape
    )
    return replace(view, alignment=cut)


@pytest.mark.parametrize("kind", ["adapter", "projector", "latent"])
def test_uncovered_tokens_contribute_nothing(school, only, kind):
    """Fact 7. Fails when the weigher gets ``text`` for ``covered & text``."""
    lesson = school.lesson(kind, loss=only(**KV_ONLY))
    batch = school.batch(1)
    last = torch.zeros_like(batch.mask)
    last[:, -6:] = True  # causal: the KV of the last tokens reach nothing else
    views = [uncover(view, last) for view in lesson.panel(batch)]
    seen = lesson.capture(batch.ids, batch.mask)
    k = seen.kv.k.detach().requires_grad_()
    lesson.bridge.auxiliary = lambda kv, views, share: {}

    def fake(ids, mask, **asked):
        out = lesson.capture(ids, mask, **asked)
        return replace(out, kv=replace(out.kv, k=k))

    lesson.distiller._capture = fake
    result = lesson.distiller(batch, views)
    result.loss.backward()
    assert float(k.grad[..., -6:, :].abs().sum()) == 0
    assert float(k.grad[..., :-6, :].abs().sum()) > 0
    text = int(batch.has_text.sum())
    torch.testing.assert_close(result.coverage, torch.full((2,), (text - 6) / text))


def test_a_batch_that_no_teacher_covers_is_trained_by_cross_entropy(school, only):
    lesson = school.lesson(loss=only(**KV_ONLY, delta_ce=1.0))
    batch = school.batch(2)
    everything = torch.ones_like(batch.mask)
    views = [uncover(view, everything) for view in lesson.panel(batch)]
    result = lesson.distiller(batch, views)
    assert float(result.terms["kv_k"]) == 0 and float(result.terms["kv_v"]) == 0
    torch.testing.assert_close(result.loss.detach(), result.terms["ce"])
    assert result.coverage.tolist() == [0, 0]


def injected_logits(lesson, batch, views):
    """(B, T, V) logits of the outcome pass."""
    seen = []

    def spy(ids, mask, **asked):
        out = lesson.capture(ids, mask, **asked)
        if asked.get("inject") is not None:
            seen.append(out.logits.detach())
        return out

    lesson.distiller._capture = spy
    lesson.distiller(batch, views)
    return seen[0]


class CheatingAligner:
    """Overlap in both directions that calls itself causal."""

    causal = True

    def __call__(self, student, teacher):
        return CharIoUAligner()(student, teacher)


@pytest.mark.parametrize(
    "kind", some_daily(["adapter", "latent"], lambda kind: kind == "adapter")
)
@pytest.mark.parametrize("aligner", [CausalCharIoUAligner(), CheatingAligner()])
def test_no_logit_of_the_outcome_reads_teacher_tokens_that_have_read_further(
    school, only, kind, aligner, monkeypatch
):
    """Fact 8, with its own proof: under an aligner that cheats the logits do change.

    Fails when ``in_student_space`` takes ``view.alignment`` for ``view.causal``.
    """
    monkeypatch.setattr("align.causality.check_causal", lambda *asked: None)
    loss = only(eta_outcome=1.0, outcome_layers="all", delta_ce=1e-9)
    lesson = school.lesson(kind, loss=loss, causal_aligner=aligner)
    batch = school.encode(["the unbelievable transformation of misunderstandings"])
    views = lesson.panel(batch)
    quiet = injected_logits(lesson, batch, views)
    own = [
        encode_batch(school.teacher(view.name).tokenizer, batch.texts).touched_until
        for view in views
    ]
    leaks = []
    for token in range(2, batch.ids.shape[1] - 1):
        known = int(batch.complete_until[0, token])
        changed = []
        for view, seen in zip(views, own, strict=True):
            later = (seen[0] > known).float()[:, None]  # (T_t, 1)
            kv = replace(view.kv, k=view.kv.k + 5 * later, v=view.kv.v - 5 * later)
            changed.append(replace(view, kv=kv))
        loud = injected_logits(lesson, batch, changed)
        leaks.append(float((loud - quiet)[0, : token + 1].abs().max()))
    assert (max(leaks) > 1e-2) == (type(aligner) is CheatingAligner)
    if type(aligner) is not CheatingAligner:
        assert max(leaks) < 1e-5


@pytest.mark.parametrize("kind", ["adapter", "latent"])
def test_changing_the_future_changes_no_earlier_logit_of_the_outcome(
    school, only, kind
):
    """Fact 8, on real texts. Fails when teachers are captured bidirectionally."""
    loss = only(eta_outcome=1.0, outcome_layers="all", delta_ce=1e-9)
    lesson = school.lesson(kind, loss=loss, routed=True)
    head = "the unbelievable transformation of misunderstandings"
    futures = (" was told over dinner", " class ZeroDivisionError(x): pass")
    batches = [school.encode([head + tail], max_length=64) for tail in futures]
    one, other = (injected_logits(lesson, b, lesson.panel(b)) for b in batches)
    read = int((batches[0].spans[0, :, 1] <= len(head)).cumprod(0).sum())
    assert read > 10
    assert bool((batches[0].ids[0, :read] == batches[1].ids[0, :read]).all())
    torch.testing.assert_close(one[0, :read], other[0, :read], rtol=0, atol=1e-5)
    assert (one[0, read + 1] - other[0, read + 1]).abs().max() > 1e-3


def test_bidirectional_teachers_are_never_injected(school, only):
    """Fact 8. Fails when the panel gives encoders a causal alignment."""
    loss = only(eta_outcome=1.0, delta_ce=1e-9)
    lesson = school.lesson("latent", ("bert-mixed", "t5-mixed"), loss)
    assert "outcome" not in lesson.run(school.batch()).terms
    mixed = school.lesson("latent", ("bert-mixed", "gpt2-prose"), loss)
    batch = school.batch()
    views = mixed.panel(batch)
    weights = torch.tensor([0.9, 0.1]).expand(*batch.ids.shape, 2)
    fused = mixed.bridge.fuse_for_injection(views, weights)
    noisy = replace(views[0], kv=replace(views[0].kv, k=views[0].kv.k + 100))
    again = mixed.bridge.fuse_for_injection([noisy, views[1]], weights)
    torch.testing.assert_close(again.k, fused.k, rtol=0, atol=0)
    torch.testing.assert_close(fused.mask, views[1].causal.covered)


def test_a_closed_gate_leaves_the_outcome_at_the_students_own_loss(school, only):
    loss = only(eta_outcome=2.0, delta_ce=1.0, outcome_layers="all")
    lesson = school.lesson(loss=loss)
    lesson.bridge.gate_logit.data.fill_(-50.0)
    terms = lesson.run(school.batch()).terms
    torch.testing.assert_close(terms["outcome"], 2 * terms["ce"])


def test_injection_reads_the_fused_kv_at_open_gates(school, only):
    """With gates open and every layer read, own KV at covered tokens do not matter."""
    lesson = school.lesson(loss=only(eta_outcome=1.0))
    batch = school.batch(2)
    views = lesson.panel(batch)
    weights = torch.full((*batch.ids.shape, 2), 0.5)
    fused = lesson.bridge.fuse_for_injection(views, weights)
    layers = range(lesson.capture.num_layers)
    ones = torch.ones(len(layers))
    inject = Injection(fused, layers, fused.mask, ones)
    logits = lesson.capture(
        batch.ids, batch.mask, layers=(0,), logits=True, inject=inject
    ).logits
    other = replace(fused, k=fused.k + 1)
    again = lesson.capture(
        batch.ids,
        batch.mask,
        layers=(0,),
        logits=True,
        inject=Injection(other, layers, fused.mask, ones),
    ).logits
    assert (logits - again).abs().max() > 1e-4


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["adapter", None])
def test_a_head_that_is_known_gives_the_same_losses_and_makes_no_logits(
    school, only, kind, tied
):
    loss = only(eta_outcome=1.0, delta_ce=1.0, lambda_v=1.0)
    model = school.student(seed=1, tie_word_embeddings=tied)
    lesson = school.lesson(kind, loss=loss, model=model, routed=True)
    batch = school.batch()
    conversation = Conversation([{"role": "user", "content": batch.texts[0]}])
    batch = replace(batch, texts=(conversation, *batch.texts[1:]))  # less is predicted

    def step():
        lesson.distiller.zero_grad()
        views = lesson.panel(school.batch()) if kind else ()
        result = lesson.distiller(batch, views)
        result.loss.backward()
        named = lesson.distiller.named_parameters()
        return result, {n: p.grad.clone() for n, p in named if p.grad is not None}

    (plain, expected), asked = step(), []
    contexts = lesson.distiller._contexts
    lesson.distiller._contexts = replace(contexts, head=linear_head(lesson.capture))

    def spy(ids, mask, **options):
        asked.append(options["logits"])
        return lesson.capture(ids, mask, **options)

    lesson.distiller._capture = spy
    fused, found = step()
    assert asked == [False, False] if kind else [False]
    torch.testing.assert_close(fused.terms, plain.terms, rtol=1e-6, atol=1e-6)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "kind", "layers"),
    [
        ({"delta_ce": 1.0}, "adapter", (0,)),
        ({"delta_ce": 1.0}, "latent", None),
        ({"lambda_k": 1.0}, "adapter", None),
        ({"relation_k": 1.0}, "adapter", None),
        ({"gamma_kl": 1.0}, "projector", None),
        ({"extra": {"huber": 1.0}}, "adapter", None),
    ],
)
def test_keys_and_values_are_recorded_only_where_something_reads_them(
    school, only, weights, kind, layers, monkeypatch
):
    def mine():
        return Term(lambda ctx: sum(c.distance("k").mean() for c in ctx.comparisons))

    monkeypatch.setitem(OBJECTIVES, "huber", mine)
    lesson = school.lesson(kind, loss=only(**weights))
    asked = []

    def spy(ids, mask, **options):
        asked.append(options["layers"])
        return lesson.capture(ids, mask, **options)

    lesson.distiller._capture = spy
    lesson.run(school.batch()).loss.backward()
    lesson.distiller._health_every = 2
    assert lesson.run(school.batch(), step=2).health is not None
    assert asked == [layers, None]


def test_temperatures_of_layers_reach_the_terms_and_are_counted(school, only):
    plain = school.lesson(loss=only(gamma_kl=1.0))
    layers, batch = plain.capture.num_layers, school.batch()
    hot = school.lesson(loss=only(gamma_kl=1.0, temperatures=[4.0] * layers))
    one = school.lesson(loss=only(gamma_kl=1.0, temperatures=[4.0]))
    steep = school.lesson(loss=only(gamma_kl=1.0, temperature_rise=2.0))
    given = [1 + 2 * (layer + 1) / layers for layer in range(layers)]
    listed = school.lesson(loss=only(gamma_kl=1.0, temperatures=given))
    taught = (plain, hot, one, steep, listed)
    kl = [float(x.run(batch).terms["attention_kl"]) for x in taught]
    assert kl[1] == kl[2] != kl[0] > 0
    assert kl[3] == pytest.approx(kl[4], rel=1e-6) and kl[3] != kl[0]


def test_a_term_that_asks_for_logits_gets_those_of_the_model(school):
    capture = KVCapture(school.student())
    batch = school.batch()
    seen = capture(batch.ids, batch.mask, logits=True, hidden=True)
    ctx = StepContext(
        batch=batch, output=HiddenOutput(seen.hidden, linear_head(capture))
    )
    torch.testing.assert_close(ctx.logits, seen.logits)
    assert ctx.logits is ctx.logits


def test_a_sink_can_take_any_value_without_moving_the_loss(school, only):
    lesson = school.lesson("projector", loss=only(lambda_k=1.0, lambda_v=1.0))
    batch = school.batch()
    views = lesson.panel(batch)
    loud = []
    for view in views:
        k = view.kv.k.clone()
        k[..., 0, :] += 1000.0
        loud.append(replace(view, kv=replace(view.kv, k=k)))
    quiet = lesson.distiller(batch, views).loss
    torch.testing.assert_close(lesson.distiller(batch, loud).loss, quiet)


def test_without_teachers_only_cross_entropy_is_left(school):
    lesson = school.lesson(None)
    batch = school.batch()
    result = lesson.run(batch)
    assert set(result.terms) == {"ce"} and result.routing is None
    labels = batch.ids.masked_fill(~batch.mask, -100)
    expected = lesson.model(
        input_ids=batch.ids, attention_mask=batch.mask.long(), labels=labels
    ).loss
    torch.testing.assert_close(result.loss, expected)


def test_the_loss_is_the_weighted_sum_of_its_terms(school):
    loss = LossConfig(lambda_k=0.5, lambda_v=0.25, gamma_kl=2.0, outcome_every=2)
    lesson = school.lesson("latent", loss=loss, routed=True)
    weights = {
        "ce": 1.0, "kv_k": 0.5, "kv_v": 0.25, "cosine": 0.1, "attention_kl": 2.0,
    }  # fmt: skip
    for step in (0, 1):
        result = lesson.run(school.batch(), step)
        assert ("outcome" in result.terms) == (step == 0)
        expected = sum(weights.get(n, 1.0) * v for n, v in result.terms.items())
        torch.testing.assert_close(result.loss.detach(), expected)


def test_teaching_fades_and_the_next_token_loss_stays(school):
    loss = LossConfig(
        lambda_k=2, gamma_kl=0, outcome_every=0, fade_steps=10, fade_to=0.2
    )
    lesson = school.lesson("adapter", loss=loss)
    weights = {"ce": 1.0, "kv_k": 2.0, "kv_v": 1.0, "cosine": 0.1}
    for step, strength in ((0, 1.0), (5, 0.6), (10, 0.2), (30, 0.2)):
        result = lesson.run(school.batch(), step)
        expected = sum(
            weights[name] * (1 if name == "ce" else strength) * value
            for name, value in result.terms.items()
        )
        torch.testing.assert_close(result.loss.detach(), expected)


def test_standing_still_gives_gradients_back_even_after_an_error():
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    with pytest.raises(KeyError), frozen(module):
        assert not module.weight.requires_grad
        raise KeyError
    assert module.weight.requires_grad and not module.bias.requires_grad


def test_a_term_of_two_names_weighs_what_both_weigh(school):
    """0.3 and 0.7 of one distance are that distance."""
    batch = school.batch()
    off = {"lambda_k": 0.0, "lambda_v": 0.0, "beta_cos": 0.0, "delta_ce": 0.0}
    off |= {"gamma_kl": 0.0, "eta_outcome": 0.0}
    parts = {name: {"use": "kv_k", "weight": w} for name, w in (("a", 0.3), ("b", 0.7))}
    two = school.lesson("adapter", loss=LossConfig(**off, terms=parts)).run(batch)
    one = school.lesson("adapter", loss=LossConfig(**off | {"lambda_k": 1.0}))
    whole = one.run(batch)
    assert two.terms.keys() == {"a", "b"} and whole.terms.keys() == {"kv_k"}
    assert torch.equal(two.terms["a"], whole.terms["kv_k"])
    torch.testing.assert_close(two.loss, whole.loss, rtol=1e-6, atol=0)


def test_short_and_long_form_give_the_same_loss_bit_for_bit(school):
    batch = school.batch()
    short = LossConfig(lambda_k=0.37, beta_cos=0.2, eta_outcome=0.0)
    long = LossConfig(
        eta_outcome=0.0,
        terms={"cosine": {"weight": 0.2}, "kv_k": {"use": "kv_k", "weight": 0.37}},
    )
    results = [school.lesson("adapter", loss=x).run(batch) for x in (short, long)]
    assert torch.equal(results[0].loss, results[1].loss)
    assert list(results[0].terms) == list(results[1].terms)


def test_a_term_called_as_a_loss_of_the_space_is_refused(school):
    """Fails where one would stand for both in the metrics."""
    lesson, batch = school.lesson("latent"), school.batch()
    own = lesson.bridge.auxiliary
    lesson.bridge.auxiliary = lambda *given: {"kv_k": own(*given)["z_agreement"]}
    with pytest.raises(InputError, match="'kv_k' is called as a loss that the space"):
        lesson.run(batch)


@pytest.mark.parametrize("kind", ["latent", "projector"])
def test_a_teachers_narrow_pass_beside_it_moves_no_gradient(school, only, kind):
    """Autocast's cache is one for all threads: whoever ends a pass empties it. Fails
    where the student's pass goes by it."""
    lesson = school.lesson(kind, loss=only(eta_outcome=1.0, **KV_ONLY))
    lesson.distiller._autocast = torch.bfloat16
    batch = school.batch()

    def gradients_with(beside):
        handles = [
            module.register_forward_hook(lambda *_: beside())
            for module in lesson.distiller.modules()
        ]
        lesson.distiller.zero_grad()
        lesson.run(batch).loss.backward()
        for handle in handles:
            handle.remove()
        named = lesson.distiller.named_parameters()
        return {n: p.grad.clone() for n, p in named if p.grad is not None}

    def another_pass():
        def narrow():
            with torch.autocast("cpu", torch.bfloat16):
                pass

        thread = threading.Thread(target=narrow)
        thread.start()
        thread.join()

    alone, beside = gradients_with(lambda: None), gradients_with(another_pass)
    assert alone.keys() == beside.keys()
    for name, gradient in alone.items():
        assert torch.equal(gradient, beside[name]), name
