import math

import numpy as np
import ot
import pytest
import torch

from student.output.divergence.top_tokens import support_sizes, top_tokens
from student.output.transport.solver import TransportSettings
from student.output.transport.token import (
    cosine_cost,
    hybrid,
    in_student_space,
    token_transport,
)

EXACT = TransportSettings("exact")
TIGHT = TransportSettings("sinkhorn", epsilon=0.5, iterations=2000, tolerance=1e-10)
BOTH = pytest.mark.parametrize("settings", [EXACT, TIGHT], ids=["exact", "sinkhorn"])


def logits(rows=4, size=12, seed=0):
    torch.manual_seed(seed)
    return 2 * torch.randn(rows, size, dtype=torch.float64)


def vectors(size=12, width=6, seed=1):
    torch.manual_seed(seed)
    return torch.randn(size, width, dtype=torch.float64)


def loss(s, t, k=5, x=None, y=None, **options):
    x = vectors(s.shape[1]) if x is None else x
    y = x if y is None else y
    return token_transport(top_tokens(s, k), top_tokens(t, k), x, y, **options)


def naive(s, t, k, x, y):
    """One row by sorting and POT."""
    i, j = np.argsort(-s)[:k], np.argsort(-t)[:k]
    p, q = np.exp(s[i]) / np.exp(s[i]).sum(), np.exp(t[j]) / np.exp(t[j]).sum()
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x[i], y[j])]
    return ot.emd2(p, q, 1 - unit[0] @ unit[1].T)


def test_each_row_is_the_transport_between_two_renormalised_supports():
    s, t, x, y = logits(size=12), logits(size=15, seed=2), vectors(12), vectors(15)
    got = loss(s, t, 5, x, y, settings=EXACT, reduction="none")
    expected = [
        naive(s[n].numpy(), t[n].numpy(), 5, x.numpy(), y.numpy()) for n in range(4)
    ]
    torch.testing.assert_close(got.loss, torch.tensor(expected, dtype=torch.float64))
    p, q = s.softmax(-1), t.softmax(-1)
    kept = [z.sort(-1).values[:, -5:].sum(-1) for z in (p, q)]
    torch.testing.assert_close(got.student_left_out, 1 - kept[0])
    torch.testing.assert_close(got.teacher_left_out, 1 - kept[1])


def test_all_tokens_are_the_whole_vocabulary():
    s, t, x = logits(), logits(seed=3), vectors()
    got = loss(s, t, 12, x, settings=EXACT, reduction="none").loss
    cost = cosine_cost(x[None], x[None])[0].numpy()
    p, q = s.softmax(-1).numpy(), t.softmax(-1).numpy()
    expected = [ot.emd2(p[n], q[n], cost) for n in range(4)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


@BOTH
@pytest.mark.parametrize("rowwise", [False, True])
def test_gradients_are_those_of_finite_differences(settings, rowwise):
    t = logits(2, seed=3)

    def scalar(s):
        top = top_tokens(s, 4)
        temperature = top.logits.std(-1) if rowwise else 1.3
        return token_transport(
            top,
            top_tokens(t, 4),
            vectors(),
            vectors(),
            student_temperature=temperature,
            settings=settings,
        ).loss

    s = logits(2).requires_grad_()
    assert torch.autograd.gradcheck(scalar, s, atol=1e-7, fast_mode=True)


@BOTH
def test_the_same_model_costs_nothing_and_pulls_nowhere(settings):
    s = logits().requires_grad_()
    same = loss(s, s.detach(), settings=settings).loss
    same.backward()
    assert abs(same.item()) < 1e-7
    if settings is TIGHT:  # the exact cost has a kink there
        assert s.grad.abs().max() < 1e-5


def test_a_bet_on_a_synonym_is_nearer_than_one_on_noise():
    x = torch.tensor([[1.0, 0], [0.99, 0.1], [0, 1]])
    teacher = torch.tensor([[9.0, 0, 0]])
    synonym, noise = torch.tensor([[0.0, 9, 0]]), torch.tensor([[0.0, 0, 9]])
    near, far = (loss(s, teacher, 1, x).loss for s in (synonym, noise))
    assert near < 0.02 < 0.9 < far


@BOTH
def test_shifted_logits_and_renumbered_tokens_change_nothing(settings):
    s, t, x = logits(), logits(seed=3), vectors()
    base = loss(s, t, x=x, settings=settings).loss
    torch.testing.assert_close(loss(s + 5, t - 3, x=x, settings=settings).loss, base)
    order = torch.randperm(12)
    moved = loss(s[:, order], t[:, order], x=x[order], settings=settings).loss
    torch.testing.assert_close(moved, base)


def test_a_high_temperature_makes_both_even_and_a_low_one_sure():
    s, t, x = logits(), logits(seed=3), vectors()
    hot = dict(student_temperature=1e9, teacher_temperature=torch.full((4,), 1e9))
    even = loss(0 * s, 0 * t, 12, x, settings=EXACT).loss
    torch.testing.assert_close(
        loss(s, t, 12, x, settings=EXACT, **hot).loss, even, atol=1e-6, rtol=0
    )
    cold = dict(student_temperature=1e-4, teacher_temperature=1e-4)
    best = cosine_cost(x[s.argmax(-1)][:, None], x[t.argmax(-1)][:, None]).mean()
    torch.testing.assert_close(loss(s, t, 12, x, settings=EXACT, **cold).loss, best)


def test_sizes_by_the_teachers_entropy_limit_both_sides():
    s, t, x = logits(), logits(seed=3), vectors()
    tops = top_tokens(s, 12), top_tokens(t, 12)
    sizes = support_sizes(tops[1].entropy, 12, multiple=1.0)
    assert 1 < sizes.min() < sizes.max() < 12
    limited = [top.limited(sizes) for top in tops]
    got = token_transport(*limited, x, x, settings=EXACT, reduction="none").loss
    for n, k in enumerate(sizes.tolist()):
        alone = loss(s[n : n + 1], t[n : n + 1], k, x, settings=EXACT).loss
        torch.testing.assert_close(got[n], alone)


def test_rows_without_weight_are_not_even_looked_at():
    s, t = logits(), logits(seed=3)
    s[1], t[2] = math.nan, math.nan
    weight = torch.tensor([1.0, 0, 0, 3])
    s.requires_grad_()
    got = loss(s, t, weight=weight).loss
    each = loss(s[[0, 3]], t[[0, 3]], reduction="none").loss
    torch.testing.assert_close(got, (each[0] + 3 * each[1]) / 4)
    got.backward()
    assert s.grad[1:3].abs().sum() == 0 and s.grad[0].abs().sum() > 0
    total = loss(s, t, weight=weight, reduction="sum").loss
    torch.testing.assert_close(total, each[0] + 3 * each[1])


def test_padding_alone_and_no_rows_cost_nothing():
    s = logits().requires_grad_()
    padded = loss(s, s.detach(), weight=torch.zeros(4)).loss
    padded.backward()
    assert padded == 0 and not s.grad.any()
    assert loss(s[:0], s[:0]).loss == 0


@BOTH
def test_extreme_logits_stay_finite(settings):
    s = torch.tensor([[1e4, -1e4, 0, -math.inf], [-math.inf, -math.inf, 3, -math.inf]])
    s = s.bfloat16().requires_grad_()
    quick = TransportSettings(settings.solver)
    got = loss(s, s.detach().flip(1), 3, x=vectors(4), settings=quick).loss
    got.backward()
    assert got.isfinite() and got > 0
    assert s.grad.isfinite().all()


def test_blocks_change_nothing(monkeypatch):
    s, t = logits(7).requires_grad_(), logits(7, seed=3)
    whole = torch.autograd.grad(loss(s, t).loss, s)[0]
    monkeypatch.setattr("student.output.transport.token._BLOCK", 2)
    torch.testing.assert_close(torch.autograd.grad(loss(s, t).loss, s)[0], whole)


def test_vectors_never_learn():
    s, x = logits().requires_grad_(), vectors().requires_grad_()
    loss(s, logits(seed=3), x=x).loss.backward()
    assert x.grad is None and s.grad.abs().sum() > 0


def test_a_narrower_space_is_found_from_shared_tokens():
    teacher = vectors(40, 8)
    student = teacher @ vectors(8, 3, seed=5) + 2
    pairs = torch.arange(30)[:, None].expand(-1, 2)
    mapped = in_student_space(teacher, student, pairs)
    assert mapped.shape == (40, 3)
    torch.testing.assert_close(mapped[30:], student[30:].float(), atol=0.15, rtol=0.05)
    with pytest.raises(ValueError, match="at least 2 strings"):
        in_student_space(teacher, student, pairs[:1])


def test_alpha_shares_between_transport_and_divergence():
    assert hybrid(torch.tensor(2.0), torch.tensor(4.0), 0.25) == 3.5
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 2"):
        hybrid(torch.tensor(2.0), torch.tensor(4.0), 2)


def test_wrong_arguments_are_named():
    s = logits()
    with pytest.raises(ValueError, match="reduction is 'max'; give mean, sum, none"):
        loss(s, s, reduction="max")
    with pytest.raises(ValueError, match="student has 4 rows and teacher 2"):
        loss(s, s[:2])
    with pytest.raises(ValueError, match="6 wide and teacher_vectors 5; bring them"):
        loss(s, s, y=vectors(12, 5))
    with pytest.raises(ValueError, match="student_vectors has 3 rows"):
        loss(s, s, x=vectors(3))


def test_costs_are_float32_where_products_are_bfloat16():
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 64), torch.randn(2, 7, 64)
    expected = cosine_cost(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_cost(x, y)
    assert torch.equal(found, expected)
