"""Every term against a value by hand or another implementation."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.special import rel_entr
from torch.nn import functional as F

from align.tokens.batch import TokenBatch
from align.views import LinearHead
from student.config import LossConfig
from student.objective import (
    AttentionPair,
    Comparison,
    HiddenOutput,
    Relation,
    StepContext,
)
from student.output_config import OutputConfig
from student.terms.key_value import BUILT_IN, OBJECTIVES, term_weights


def tokens(ids: torch.Tensor, mask: torch.Tensor) -> TokenBatch:
    """A batch whose texts do not matter."""
    spans = torch.zeros(*ids.shape, 2, dtype=torch.int64)
    return TokenBatch(ids, mask, spans, ("",) * len(ids))


def context(**parts) -> StepContext:
    ids = torch.zeros(1, 3, dtype=torch.int64)
    return StepContext(tokens(ids, ids == 0), torch.zeros(1, 3, 5), **parts)


def term(name: str, ctx: StepContext) -> torch.Tensor:
    return OBJECTIVES[name]()(ctx)


def compared(pred, target, weight, name="a") -> Comparison:
    """The same keys and values, (L, B, T, C)."""
    return Comparison(
        name=name,
        pred_k=pred,
        pred_v=2 * pred,
        target_k=target,
        target_v=2 * target,
        weight=weight,
    )


def test_cross_entropy_is_the_librarys_own_loss():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=17,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(config)
    ids = torch.randint(1, 17, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    out = model(
        input_ids=ids,
        attention_mask=mask.long(),
        labels=ids.masked_fill(~mask, -100),
    )
    ours = term("ce", StepContext(batch=tokens(ids, mask), output=out.logits))
    torch.testing.assert_close(ours, out.loss)


def test_cross_entropy_of_a_single_token_is_zero_with_a_gradient_of_zero():
    ids = torch.ones(2, 1, dtype=torch.int64)
    logits = torch.randn(2, 1, 5, requires_grad=True)
    loss = term("ce", StepContext(batch=tokens(ids, ids == 1), output=logits))
    loss.backward()
    assert float(loss.detach()) == 0 and float(logits.grad.abs().sum()) == 0


def test_squared_distance_is_averaged_over_channels_layers_and_by_weight_over_tokens():
    pred = torch.zeros(2, 1, 3, 2)
    target = torch.zeros(2, 1, 3, 2)
    target[0, 0, 0] = torch.tensor([3.0, 1.0])  # (9 + 1) / 4 = 2.5 over two layers
    target[1, 0, 1] = torch.tensor([0.0, 4.0])  # 16 / 4 = 4
    target[:, 0, 2] = 1e6  # weight 0
    weight = torch.tensor([[1.0, 0.5, 0.0]])
    ctx = context(comparisons=[compared(pred, target, weight)])
    expected = (1.0 * 2.5 + 0.5 * 4.0) / 1.5
    assert float(term("kv_k", ctx)) == pytest.approx(expected)
    assert float(term("kv_v", ctx)) == pytest.approx(4 * expected)


def test_comparisons_weigh_by_the_tokens_they_cover():
    zero, one = torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3, 2)
    pairs = [
        compared(zero, one, torch.tensor([[1.0, 1.0, 1.0]])),
        compared(zero, 3 * one, torch.tensor([[0.0, 1.0, 0.0]]), "b"),
    ]
    ctx = context(comparisons=pairs)
    assert float(term("kv_k", ctx)) == pytest.approx((3 * 1 + 1 * 9) / 4)


def test_cosine_distance_ignores_length_and_sees_direction():
    pred = torch.tensor([1.0, 0.0]).expand(1, 1, 3, 2)
    target = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-2.0, 0.0]])[None, None]
    weight = torch.tensor([[1.0, 1.0, 2.0]])
    ctx = context(comparisons=[compared(pred, target, weight)])
    assert float(term("cosine", ctx)) == pytest.approx((0 + 1 + 2 * 2) / 4, abs=1e-5)


def test_attention_kl_is_scipys_from_teacher_to_student():
    torch.manual_seed(0)
    student = torch.randn(2, 1, 3, 4).softmax(-1)
    teacher = torch.randn(2, 1, 3, 4).softmax(-1)
    teacher[:, :, 1, 2] = 0  # a key the teacher does not look at: 0 log 0 = 0
    teacher = teacher / teacher.sum(-1, keepdim=True)
    weight = torch.tensor([[1.0, 0.25, 0.0]])
    pair = AttentionPair("a", student, teacher, weight)
    kl = torch.from_numpy(rel_entr(teacher.numpy(), student.numpy())).sum(-1).mean(0)
    expected = (kl * weight).sum() / weight.sum()
    found = term("attention_kl", context(attention=[pair]))
    torch.testing.assert_close(found, expected)
    assert float(term("attention_kl", context(attention=[]))) == 0


def related(student, teacher, weight, rows):
    """Keys and values of both alike."""
    return Relation(
        name="a",
        student_k=student,
        student_v=student,
        teacher_k=teacher,
        teacher_v=teacher,
        weight=weight,
        rows=rows,
    )


def naive_relations(student, teacher, weight, rows) -> float:
    """MiniLMv2's relation KL, one query and one key at a time."""
    layers, batch = student.shape[:2]
    total = count = 0.0
    for b in range(batch):
        known = [t for t in range(weight.shape[1]) if weight[b, t] > 0]
        for row in rows[b].tolist():
            others = [t for t in known if t != row]
            if not others or row not in known:
                continue
            kl = 0.0
            for x in range(layers):
                scores = []
                for features in (student, teacher):
                    width = features.shape[-1]
                    dots = [
                        float(features[x, b, row] @ features[x, b, t]) for t in others
                    ]
                    exps = [math.exp(d / math.sqrt(width)) for d in dots]
                    scores.append([e / sum(exps) for e in exps])
                kl += sum(
                    p * math.log(p / q)
                    for q, p in zip(scores[0], scores[1], strict=True)
                )
            total += float(weight[b, row]) * kl / layers
            count += float(weight[b, row])
    return total / count


def test_relations_are_minilms_by_a_naive_loop():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 6, 4), torch.randn(2, 2, 6, 7)
    weight = torch.tensor([[1.0, 0.0, 0.5, 1.0, 0.0, 1.0], [0, 1.0, 0, 0, 0, 0]])
    rows = torch.tensor([[0, 1, 5, 2], [1, 1, 0, 3]])
    relation = related(student, teacher, weight, rows)
    found = term("relation_k", context(relations=[relation]))
    expected = naive_relations(student, teacher, weight, rows)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert float(term("relation_v", context(relations=[relation]))) == float(found)


def test_relations_are_float32_where_products_are_bfloat16():
    torch.manual_seed(0)
    student = torch.randn(2, 2, 20, 64)
    teacher = student + 0.05 * torch.randn_like(student)  # nearly there
    relation = related(
        student, teacher, torch.ones(2, 20), torch.tensor([[0, 1, 5], [1, 9, 3]])
    )
    expected = term("relation_k", context(relations=[relation]))
    with torch.autocast("cpu", torch.bfloat16):
        found = term("relation_k", context(relations=[relation]))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["attention_kl", "relation_k"])
def test_each_layer_has_its_own_temperature(name):
    torch.manual_seed(0)
    temperature = torch.tensor([1.0, 3.0])
    maps = [torch.randn(2, 1, 2, 5).softmax(-1) for _ in range(2)]
    maps[1][..., 4] = 0  # a token that the teacher cannot see
    maps[1] /= maps[1].sum(-1, keepdim=True)
    pair = AttentionPair("a", *maps, torch.ones(1, 2))
    x, y = torch.randn(2, 1, 5, 4), torch.randn(2, 1, 5, 6)
    rows = torch.tensor([[1, 3]])
    relation = related(x, y, torch.ones(1, 5), rows)
    found = term(
        name, context(attention=[pair], relations=[relation], temperature=temperature)
    )

    def layer(n: int) -> float:
        if name == "attention_kl":
            s, t = (m[n, 0].double() ** (1 / temperature[n]) for m in maps)
        else:  # relations of a query to all tokens but itself
            s, t = (
                torch.stack(
                    [
                        (z[n, 0, q] @ z[n, 0].T / z.shape[3] ** 0.5 / temperature[n])
                        .double()
                        .exp()
                        * (torch.arange(5) != q)
                        for q in (1, 3)
                    ]
                )
                for z in (x, y)
            )
        s, t = (z / z.sum(-1, keepdim=True) for z in (s, t))
        return (
            float(temperature[n]) ** 2 * rel_entr(t.numpy(), s.numpy()).sum(-1).mean()
        )

    assert float(found) == pytest.approx((layer(0) + layer(1)) / 2, rel=1e-5)
    assert layer(0) != layer(1)


def test_relations_do_not_change_with_the_basis_and_mse_does():
    """Fact 12: an orthogonal change of basis is invisible to the model."""
    torch.manual_seed(0)
    features = torch.randn(1, 1, 6, 4)
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    weight, rows = torch.ones(1, 6), torch.tensor([[0, 3]])
    relation = related(features, features @ turn, weight, rows)
    assert float(term("relation_k", context(relations=[relation]))) < 1e-6
    moved = compared(features, features @ turn, weight)
    assert float(term("kv_k", context(comparisons=[moved]))) > 0.1


@pytest.mark.parametrize("name", ["kv_k", "kv_v", "cosine"])
def test_uncovered_tokens_get_no_gradient(name):
    torch.manual_seed(0)
    pred = torch.randn(2, 1, 4, 3, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0, 0.3, 0.0]])
    pair = compared(pred, torch.randn(2, 1, 4, 3), weight)
    term(name, context(comparisons=[pair])).backward()
    moved = pred.grad.abs().sum((0, 1, 3)) > 0
    assert moved.tolist() == [True, False, True, False]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_terms_give_finite_gradients_where_nothing_is_comparable(name):
    zeros = torch.zeros(1, 1, 3, 2, requires_grad=True)
    none = torch.zeros(1, 3)
    rows = torch.tensor([[0, 2]])
    attention = torch.zeros(1, 1, 2, 3)
    ctx = context(
        comparisons=[compared(zeros, zeros.detach(), none)],
        attention=[AttentionPair("a", attention, attention, none[:, :2])],
        relations=[related(zeros, zeros, none, rows)],
    )
    loss = term(name, ctx)
    assert bool(loss.isfinite())
    if loss.requires_grad:
        loss.backward()
        assert bool(zeros.grad.isfinite().all())


def test_distances_are_computed_in_float32_whatever_comes():
    pred = torch.full((1, 1, 3, 2), 300.0, dtype=torch.float16)
    pair = compared(pred, torch.zeros_like(pred), torch.ones(1, 3))
    found = term("kv_k", context(comparisons=[pair]))
    assert found.dtype == torch.float32 and float(found) == 90000  # over fp16's range


def test_term_weights_leave_out_what_is_off():
    config = LossConfig(lambda_k=2.0, gamma_kl=0.0, extra={"mine": 0.5, "off": 0.0})
    assert term_weights(config) == {
        "ce": 1.0,
        "kv_k": 2.0,
        "kv_v": 1.0,
        "cosine": 0.1,
        "mine": 0.5,
    }
    with pytest.raises(ValueError, match=r"loss\.extra\.kv_k repeats"):
        term_weights(LossConfig(extra={"kv_k": 1.0}))


def test_an_entry_of_terms_wins_over_its_short_form_and_stands_in_its_place():
    short = LossConfig(lambda_k=0.5, relation_v=2.0)
    long = LossConfig(
        lambda_k=7.0,
        terms={
            "relation_v": {"weight": 2.0},
            "kv_k": {"use": "kv_k", "weight": 0.5},
        },
    )
    assert list(term_weights(long).items()) == list(term_weights(short).items())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"terms": {"kv_k": {"use": "mine"}}}, r"loss\.terms\.kv_k uses 'mine'"),
        ({"terms": {"mine": {}}, "extra": {"mine": 1.0}}, r"are one term; keep"),
    ],
)
def test_two_settings_of_one_term_are_refused(config, said):
    with pytest.raises(ValueError, match=said):
        term_weights(LossConfig(**config))


def test_every_short_form_is_a_setting():
    sections = {"loss": LossConfig(), "output": OutputConfig()}
    for name, built_in in BUILT_IN.items():
        section, _, setting = built_in.short.partition(".")
        assert isinstance(getattr(sections[section], setting), float), name


@pytest.mark.parametrize("fused", [False, True])
def test_smoothed_cross_entropy_is_torchs(fused):
    chance = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 4, 6, generator=chance, dtype=torch.float64)
    head = LinearHead(torch.randn(9, 6, generator=chance, dtype=torch.float64))
    ids = torch.tensor([[1, 5, 6, 7], [1, 3, 0, 0]])
    output = HiddenOutput(hidden, head)
    ctx = StepContext(tokens(ids, ids > 0), output if fused else output.logits)
    labels = ids[:, 1:].masked_fill(ids[:, 1:] == 0, -100)
    logits = output.logits[:, :-1].transpose(1, 2)
    for smoothing in (0.0, 0.2):
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        found = OBJECTIVES["ce"](smoothing=smoothing)(ctx)
        torch.testing.assert_close(found, expected.float())
        of_phase = replace(ctx, smoothing=smoothing)
        torch.testing.assert_close(term("ce", of_phase), expected.float())
