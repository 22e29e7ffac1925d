import math
from dataclasses import replace

import ot
import pytest
import torch
from torch.nn import functional as F

from align.errors import InputError
from align.schedules import Timetable
from align.tokens.batch import TokenBatch
from align.views import LinearHead, Output
from student import step_outputs
from student.objective import HiddenOutput, StepContext
from student.output import CommonPieces, Lexicon, Vocabulary
from student.output.across.signals import label_log_probs
from student.output_config import OutputConfig
from student.step_outputs import Outputs, Taught
from student.terms.key_value import BUILT_IN
from student.terms.next_token import OUTPUT_BUILT_IN

V = 13


def vocabulary(seed: int) -> Vocabulary:
    drawn = torch.Generator().manual_seed(seed)
    return Vocabulary(torch.randn(V, 5, generator=drawn), torch.arange(V) < 4)


EVERY = torch.arange(V)
LEXICON = Lexicon(vocabulary(0), vocabulary(1), CommonPieces(EVERY, EVERY, V))


def tokens() -> TokenBatch:
    ids = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 4, 0, 0]])
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    start = torch.arange(5) - 1
    spans = torch.stack([start, start + 1], -1).clamp_min(0).repeat(2, 1, 1)
    return TokenBatch(ids, mask, spans * mask[..., None], ("abcd", "ab"))


def output(seed: int, width: int = 6, vocabulary: str = "one") -> Output:
    drawn = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 5, width, generator=drawn, dtype=torch.float64)
    weight = torch.randn(V, width, generator=drawn, dtype=torch.float64)
    return Output(tokens(), hidden, LinearHead(weight), vocabulary)


def context(config: OutputConfig, *teachers: Output, weights=None) -> StepContext:
    own = output(0)
    own.hidden.requires_grad_()
    own.head.weight.requires_grad_()
    if weights is None:
        weights = [torch.ones(2, 5)] * len(teachers)
    taught = [
        Taught(f"t{m}", teacher, weight)
        for m, (teacher, weight) in enumerate(zip(teachers, weights, strict=True))
    ]
    lexicons = {one.name: LEXICON for one in taught}
    outputs = Outputs(student=own, teachers=taught, config=config, lexicons=lexicons)
    return StepContext(batch=own.tokens, output=torch.zeros(2, 5, V), outputs=outputs)


def log_probs(one: Output, temperature: float = 1.0) -> torch.Tensor:
    return (one.hidden @ one.head.weight.T / temperature).log_softmax(-1)


PREDICTS = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()


def kd(ctx: StepContext) -> torch.Tensor:
    return OUTPUT_BUILT_IN["kd"](ctx)


def test_kd_is_the_mean_divergence_over_predicted_tokens_by_the_next_ones_weight():
    teacher = output(1, width=4)
    weight = torch.rand(2, 5, generator=torch.Generator().manual_seed(2))
    ctx = context(OutputConfig(kd=1, temperature=2.0), teacher, weights=[weight])
    p, q = log_probs(teacher, 2.0), log_probs(ctx.outputs.student, 2.0)
    each = (p.exp() * (p - q)).sum(-1) * 4
    w = F.pad(weight[:, 1:], (0, 1)) * PREDICTS
    expected = (each * w).sum() / w.sum()
    torch.testing.assert_close(kd(ctx), expected)
    own = ctx.outputs.student
    found = torch.autograd.grad(kd(ctx), [own.hidden, own.head.weight])
    wanted = torch.autograd.grad(expected, [own.hidden, own.head.weight])
    torch.testing.assert_close(found, wanted)


def test_a_teacher_that_says_the_same_pulls_nowhere():
    ctx = context(OutputConfig(kd=1), output(0))
    loss = kd(ctx)
    loss.backward()
    assert abs(loss) < 1e-12
    assert ctx.outputs.student.hidden.grad.abs().max() < 1e-12


def test_hard_labels_come_from_the_same_logits_and_cover_all_predicted_tokens():
    config = OutputConfig(kd=1, hard_labels=0.5, label_smoothing=0.1)
    ctx = context(config, output(1))
    soft = kd(context(replace(config, hard_labels=0.0), output(1)))
    logits = ctx.outputs.student.hidden @ ctx.outputs.student.head.weight.T
    hard = F.cross_entropy(
        logits[:, :-1][PREDICTS[:, :-1]],
        tokens().ids[:, 1:][PREDICTS[:, :-1]],
        label_smoothing=0.1,
    )
    torch.testing.assert_close(kd(ctx), soft + 0.5 * hard)
    without = context(config)  # an arm without a teacher of this vocabulary
    torch.testing.assert_close(kd(without), 0.5 * hard)


@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_a_token_that_surprises_the_teacher_weighs_less(strength):
    teacher = output(1, width=4)
    ctx = context(OutputConfig(kd=1, surprise=strength), teacher)
    p, q = log_probs(teacher), log_probs(ctx.outputs.student)
    each = (p.exp() * (p - q)).sum(-1)
    comes = tokens().ids.roll(-1, 1)[..., None]
    trust = torch.exp(-strength * (1 - p.exp().gather(-1, comes)[..., 0]))
    expected = (each * trust * PREDICTS).sum() / PREDICTS.sum()
    torch.testing.assert_close(kd(ctx), expected)
    if strength:  # the surer of two tokens keeps more of its weight
        sure = p.gather(-1, comes)[..., 0][PREDICTS]
        assert trust[PREDICTS][sure.argmax()] == trust[PREDICTS].max() <= 1


def test_several_teachers_are_summed_by_their_weights_or_averaged_as_distributions():
    one, other = output(1), output(2)
    weights = [torch.full((2, 5), 0.25), torch.full((2, 5), 0.75)]
    summed = kd(context(OutputConfig(kd=1), one, other, weights=weights))
    single = [kd(context(OutputConfig(kd=1), t)) for t in (one, other)]
    torch.testing.assert_close(summed, 0.25 * single[0] + 0.75 * single[1])

    config = OutputConfig(kd=1, combine="distributions")
    ctx = context(config, one, other, weights=weights)
    mean = 0.25 * log_probs(one).exp() + 0.75 * log_probs(other).exp()
    each = (mean * (mean.log() - log_probs(ctx.outputs.student))).sum(-1)
    torch.testing.assert_close(kd(ctx), each[PREDICTS].mean())


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, True),
        ({"temperature": 3.0}, True),
        ({"divergence": "reverse"}, False),
        ({"divergence": "jensen_shannon"}, False),
        ({"top_k": 3}, False),
    ],
)
def test_under_forward_kl_both_ways_to_combine_teachers_have_one_gradient(
    settings, same
):
    weight = torch.rand(2, 5, generator=torch.Generator().manual_seed(2))
    gradients, losses = [], []
    for combine in ("losses", "distributions"):
        config = OutputConfig(kd=1, combine=combine, **settings)
        ctx = context(config, output(1), output(2), weights=[weight, 1 - weight])
        own, loss = ctx.outputs.student, kd(ctx)
        gradients.append(torch.autograd.grad(loss, [own.hidden, own.head.weight]))
        losses.append(float(loss.detach()))
    apart = max(
        float((a - b).norm() / a.norm()) for a, b in zip(*gradients, strict=True)
    )
    assert (apart < 1e-6) == same, apart
    assert same == (apart < 1e-2)
    assert losses[0] > losses[1] + 1e-3


def test_distributions_of_another_vocabulary_are_refused():
    ctx = context(OutputConfig(kd=1), output(1, vocabulary="another"))
    with pytest.raises(ValueError, match=r"'t0' has another vocabulary.*likelihood"):
        kd(ctx)


def test_only_the_teachers_of_an_objective_are_asked():
    config = OutputConfig(kd=1, teachers={"kd": ["t1"]})
    ctx = context(config, output(1, vocabulary="another"), output(2))
    torch.testing.assert_close(kd(ctx), kd(context(OutputConfig(kd=1), output(2))))


def test_the_likelihood_needs_no_common_vocabulary_and_sees_only_the_text():
    config = OutputConfig(likelihood=1, likelihood_form="squared")
    term = OUTPUT_BUILT_IN["likelihood"]
    teacher = output(1, width=4, vocabulary="another")
    ctx = context(config, teacher)
    # Both cut at every character, so every chunk is one token.
    ids = tokens().ids
    label = [
        log_probs(one)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0][PREDICTS[:, :-1]]
        for one in (ctx.outputs.student, teacher)
    ]
    expected = ((label[0] - label[1]).square() / 2).mean()
    torch.testing.assert_close(term(ctx), expected)
    own = ctx.outputs.student
    found = torch.autograd.grad(term(ctx), [own.hidden, own.head.weight])
    wanted = torch.autograd.grad(expected, [own.hidden, own.head.weight])
    torch.testing.assert_close(found, wanted)
    assert term(context(config, output(0, vocabulary="another"))) == 0


@pytest.mark.parametrize("name", OUTPUT_BUILT_IN)
def test_without_weight_or_teachers_there_is_nothing_to_learn(name):
    term = OUTPUT_BUILT_IN[name]
    nothing = [torch.zeros(2, 5)]
    config = OutputConfig(**{name: 1.0})
    assert term(context(config, output(1), weights=nothing)) == 0
    assert term(context(config)) == 0
    assert term(replace(context(config), outputs=None)) == 0


def test_confident_teachers_count_more_where_they_are_confident():
    sure, unsure = output(1), output(2)
    sure = replace(sure, head=LinearHead(sure.head.weight * 50))
    unsure = replace(unsure, head=LinearHead(unsure.head.weight * 0))
    alone = kd(context(OutputConfig(kd=1), sure))
    for kind in ("entropy", "max_probability"):
        found = kd(context(OutputConfig(kd=1, weighting=kind), sure, unsure))
        assert abs(found - alone) < 0.2 * alone
    even = kd(context(OutputConfig(kd=1), sure, unsure))
    assert abs(even - alone) > 0.3 * alone
    # By cross-entropy, the shares are those of the probability of the next token.
    labels = tokens().ids[:, 1:, None]
    weights = torch.stack(
        [log_probs(t)[:, :-1].gather(-1, labels)[..., 0] for t in (sure, unsure)]
    ).softmax(0)
    shares = [F.pad(w, (1, 0)).float() * 2 for w in weights]
    config = OutputConfig(kd=1, weighting="cross_entropy")
    expected = kd(context(OutputConfig(kd=1), sure, unsure, weights=shares))
    found = kd(context(config, sure, unsure))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_temperature_rule_sees_the_step_the_teacher_and_the_gradients():
    config = OutputConfig(
        kd=1, temperature=1.0, temperature_end=3.0, temperature_steps=10
    )
    teacher = output(1)

    def at(rule: str, step: int = 0) -> torch.Tensor:
        ctx = context(config, teacher)
        outputs = replace(
            ctx.outputs, config=replace(config, temperature_rule=rule), step=step
        )
        return kd(replace(ctx, outputs=outputs))

    def fixed(temperature: float) -> torch.Tensor:
        return kd(context(replace(config, temperature=temperature), teacher))

    torch.testing.assert_close(at("linear", 5), fixed(2.0))
    torch.testing.assert_close(at("linear", 50), fixed(3.0))
    ctx = context(config, teacher)
    p = log_probs(teacher)
    temperature = 1 + 2 * -(p.exp() * p).sum(-1, keepdim=True) / math.log(V)
    p, q = (
        (log_probs(one) / temperature).log_softmax(-1)
        for one in (teacher, ctx.outputs.student)
    )
    each = (p.exp() * (p - q)).sum(-1) * temperature[..., 0] ** 2
    torch.testing.assert_close(at("entropy"), each[PREDICTS].mean())
    assert at("signal_to_noise").isfinite()


HEATED = [
    ("kd", "one", {}),
    ("hybrid_ot", "one", {"ot_alpha": 1.0}),
    ("hybrid_ot", "one", {"ot_alpha": 0.0}),
    ("hybrid_ot", "another", {"ot_alpha": 1.0}),
    ("hybrid_ot", "another", {"ot_alpha": 0.0}),
    ("projected_kl", "another", {}),
    ("likelihood", "another", {}),
]


@pytest.mark.parametrize(("name", "vocabulary", "settings"), HEATED)
def test_a_rule_reaches_every_term_that_has_a_temperature(name, vocabulary, settings):
    config = OutputConfig(
        **{name: 1},
        **settings,
        temperature_end=3.0,
        temperature_steps=10,
        likelihood_temperature=2.0,
    )
    teacher = output(1, width=4, vocabulary=vocabulary)
    if name == "hybrid_ot" and vocabulary == "one":
        teacher = output(1)

    def at(rule: str, step: int = 0, config: OutputConfig = config) -> float:
        ctx = context(config, teacher)
        ruled = replace(config, temperature_rule=rule)
        outputs = replace(ctx.outputs, config=ruled, step=step)
        return float(OUTPUT_BUILT_IN[name](replace(ctx, outputs=outputs)).detach())

    doubled = replace(config, temperature=2.0)
    if name == "likelihood" or (name, vocabulary) == ("hybrid_ot", "another"):
        doubled = replace(doubled, likelihood_temperature=4.0)
    assert at("linear", 5) == pytest.approx(at("constant", 0, doubled), rel=1e-6)
    assert at("linear", 5) != pytest.approx(at("constant"), rel=1e-3)
    assert at("entropy") != pytest.approx(at("constant"), rel=1e-3)
    assert math.isfinite(at("signal_to_noise"))


@pytest.mark.parametrize("wrong", [math.nan, -1.0, 0, "hot", True, torch.ones(2)])
@pytest.mark.parametrize(("name", "vocabulary", "settings"), HEATED)
def test_what_is_no_temperature_is_refused_with_the_rules_name(
    name, vocabulary, settings, wrong
):
    config = OutputConfig(**{name: 1}, **settings, temperature_rule="mine")
    ctx = context(config, output(1, vocabulary=vocabulary))
    timetable = Timetable(rules={"mine": lambda moment: wrong})
    outputs = replace(ctx.outputs, timetable=timetable)
    with pytest.raises(InputError, match=r"output\.temperature_rule='mine' gives"):
        OUTPUT_BUILT_IN[name](replace(ctx, outputs=outputs))


def test_hybrid_transport_weighs_transport_against_the_divergence():
    teacher = output(1)

    def at(alpha: float) -> torch.Tensor:
        config = OutputConfig(hybrid_ot=1, ot_alpha=alpha, ot_top_k=V)
        return OUTPUT_BUILT_IN["hybrid_ot"](context(config, teacher))

    ctx = context(OutputConfig(kd=1), teacher)
    own = ctx.outputs.student
    unit = F.normalize(own.head.weight.detach(), dim=-1)
    p, q = log_probs(own).exp().detach(), log_probs(teacher).exp()
    costs = [
        ot.emd2(a.numpy(), b.numpy(), (1 - unit @ unit.T).clamp_min(0).numpy())
        for a, b in zip(p[PREDICTS], q[PREDICTS], strict=True)
    ]
    torch.testing.assert_close(at(0.0), kd(ctx))
    assert at(1.0).item() == pytest.approx(sum(costs) / len(costs), rel=1e-5)
    torch.testing.assert_close(at(0.25), 0.25 * at(1.0) + 0.75 * at(0.0))


def test_sequences_are_matched_as_logits_and_equal_ones_cost_nothing():
    term = OUTPUT_BUILT_IN["sequence_ot"]
    config = OutputConfig(sequence_ot=1)
    assert abs(term(context(config, output(0)))) < 1e-6
    ctx = context(config, output(1, width=4))
    loss = term(ctx)
    loss.backward()
    assert loss > 0
    assert ctx.outputs.student.hidden.grad.abs().sum() > 0


READ = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0]]).bool()
"""Where both models have read the same text and predict more of it."""


def test_hybrid_transport_across_vocabularies_goes_by_spelling_and_likelihood():
    teacher = output(1, width=4, vocabulary="another")

    def at(name: str, alpha: float = 0.5) -> torch.Tensor:
        config = OutputConfig(**{name: 1}, ot_alpha=alpha, ot_top_k=V)
        return OUTPUT_BUILT_IN[name](context(config, teacher))

    ctx = context(OutputConfig(hybrid_ot=1), teacher)
    p = log_probs(ctx.outputs.student).exp().detach()[READ]
    q = log_probs(teacher).exp()[READ]
    x, y = (
        F.normalize(side.vectors, dim=-1).double()
        for side in (LEXICON.student, LEXICON.teacher)
    )
    costs = [
        ot.emd2(a.numpy(), b.numpy(), (1 - x @ y.T).numpy())
        for a, b in zip(p, q, strict=True)
    ]
    transport = at("hybrid_ot", 1.0)
    assert transport.item() == pytest.approx(sum(costs) / len(costs), rel=1e-5)
    torch.testing.assert_close(at("hybrid_ot", 0.0), at("likelihood"))
    torch.testing.assert_close(
        at("hybrid_ot", 0.25), 0.25 * transport + 0.75 * at("likelihood")
    )


def test_the_next_token_loss_takes_what_a_term_on_outputs_has_worked_out(monkeypatch):
    walks = []

    def walked(*given):
        walks.append(given)
        return label_log_probs(*given)

    monkeypatch.setattr(step_outputs, "label_log_probs", walked)

    def both(first: bool, **changes):
        ctx = context(OutputConfig(likelihood=1), output(1, vocabulary="other"))
        own = ctx.outputs.student
        hidden = HiddenOutput(own.hidden, own.head)
        weight = torch.tensor([[1, 1, 0, 2, 1], [1, 0.5, 1, 1, 1.0]])
        ctx = replace(ctx, output=hidden, by_token=weight, **changes)
        asked = OUTPUT_BUILT_IN["likelihood"](ctx) if first else 0.0
        loss = BUILT_IN["ce"](ctx)
        if not first:
            asked = OUTPUT_BUILT_IN["likelihood"](ctx)
        given = [own.hidden, own.head.weight]
        return loss, torch.autograd.grad(loss + 0.5 * asked, given)

    plain, shared = both(first=False), both(first=True)
    torch.testing.assert_close(shared, plain, rtol=1e-12, atol=1e-12)
    assert len(walks) == 2  # once a pass
    smooth = both(first=False, smoothing=0.1), both(first=True, smoothing=0.1)
    torch.testing.assert_close(smooth[1], smooth[0], rtol=1e-12, atol=1e-12)
    assert abs(smooth[0][0] - plain[0]) > 1e-3


def test_who_reads_the_tokens_without_a_gradient_takes_it_from_no_other_term():
    ctx = context(OutputConfig(likelihood=1), output(1, vocabulary="other"))
    own = ctx.outputs.student
    ctx = replace(ctx, output=HiddenOutput(own.hidden, own.head))
    with torch.no_grad():
        read = ctx.outputs.log_probs()
    given = [own.hidden, own.head.weight]
    slopes = torch.autograd.grad(BUILT_IN["ce"](ctx), given)
    said = log_probs(own)[:, :-1].gather(2, own.tokens.ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(read[:, 1:], said * own.tokens.mask[:, 1:])
    counted = own.tokens.predicted[:, 1:]
    expected = torch.autograd.grad(-said[counted].mean(), given)
    torch.testing.assert_close(slopes, expected, rtol=1e-6, atol=1e-7)
    learned = OUTPUT_BUILT_IN["likelihood"](ctx)
    assert torch.autograd.grad(learned, own.hidden)[0].abs().sum() > 0


@pytest.mark.parametrize("chains", [False, True])
def test_projected_to_all_tokens_it_is_the_divergence_where_text_was_read(chains):
    config = OutputConfig(projected_kl=1, projected_chains=chains, temperature=2.0)
    teacher = output(1, width=4, vocabulary="another")
    weight = torch.rand(2, 5, generator=torch.Generator().manual_seed(2))
    ctx = context(config, teacher, weights=[weight])
    own = ctx.outputs.student
    p, q = log_probs(teacher, 2.0), log_probs(own, 2.0)
    each = (p.exp() * (p - q)).sum(-1) * 4
    w = F.pad(weight[:, 1:], (0, 1)) * READ
    expected = (each * w).sum() / w.sum()
    found = OUTPUT_BUILT_IN["projected_kl"](ctx)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, own.head.weight),
        torch.autograd.grad(expected, own.head.weight),
    )


def test_stretches_that_end_at_blanks_count_that_a_blank_follows():
    config = OutputConfig(
        likelihood=1, likelihood_form="squared", likelihood_ends="blanks"
    )
    ctx = context(config, output(1, width=4, vocabulary="another"))
    spoken = replace(tokens(), texts=("ab c", " b"))  # "ab" alone ends before a blank
    both = [
        replace(one, tokens=spoken)
        for one in (ctx.outputs.student, ctx.outputs.teachers[0].output)
    ]
    taught = [replace(ctx.outputs.teachers[0], output=both[1])]
    outputs = replace(ctx.outputs, student=both[0], teachers=taught)
    sums = []
    for one in both:
        log_p = log_probs(one)[0]
        blank = log_p[2, :4].logsumexp(0)
        sums.append(log_p[0, 5] + log_p[1, 6] + blank)
    found = OUTPUT_BUILT_IN["likelihood"](replace(ctx, outputs=outputs))
    torch.testing.assert_close(found, (sums[0] - sums[1]).square() / 2)
    weight = ctx.outputs.student.head.weight
    wanted = torch.autograd.grad((sums[0] - sums[1]).square() / 2, weight)
    torch.testing.assert_close(torch.autograd.grad(found, weight), wanted)


@pytest.mark.parametrize("kind", ["cross_entropy", "entropy", "max_probability"])
def test_foreign_teachers_share_a_stretch_by_how_sure_they_are(kind):
    teachers = [output(m, vocabulary="another") for m in (1, 2)]
    config = OutputConfig(likelihood=1, likelihood_form="squared", weighting=kind)
    ids = tokens().ids[:, 1:, None]
    own = log_probs(context(config).outputs.student)[:, :-1].gather(-1, ids)[..., 0]
    distances, scores = [], []
    for teacher in teachers:
        log_p = log_probs(teacher)[:, :-1]
        label = log_p.gather(-1, ids)[..., 0]
        distances.append((own - label).square() / 2)
        surety = {
            "cross_entropy": label,
            "entropy": (log_p.exp() * log_p).sum(-1),
            "max_probability": log_p.amax(-1),
        }
        scores.append(surety[kind])
    shares = torch.stack(scores).softmax(0)  # every stretch is one character long
    expected = (torch.stack(distances) * shares).sum(0)[PREDICTS[:, :-1]].mean()
    found = OUTPUT_BUILT_IN["likelihood"](context(config, *teachers))
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-4, atol=1e-6)
