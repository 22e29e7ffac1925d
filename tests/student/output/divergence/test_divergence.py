import math
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from student.output import Divergence, Support
from student.output.divergence.divergence import divergence
from student.output.divergence.row_divergence import DivergenceKind, pull_

V = 11


def rows(seed: int, count: int = 6, columns: int = V, dtype=torch.float64):
    drawn = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, columns, generator=drawn, dtype=dtype)


def written_out(s, t, settings: Divergence, temperature=1.0) -> torch.Tensor:
    """The definitions, over buckets, in float64; differentiable in both."""
    row_temperature = torch.as_tensor(temperature, dtype=torch.float64).expand(len(s))[
        :, None
    ]
    p, q = (t / row_temperature).softmax(-1), (s / row_temperature).softmax(-1)
    out = []
    for a, b in zip(p, q, strict=True):
        k, least = settings.support.top_k or V, settings.support.threshold
        named = (a >= a.topk(min(k, V)).values[-1]) & (a >= least)
        if not named.all():
            a, b = (torch.cat([x[named], x[~named].sum()[None]]) for x in (a, b))
        m = settings.mix * a + (1 - settings.mix) * b
        out.append(
            {
                "forward": lambda a, b, m: (a * (a / b).log()).sum(),
                "reverse": lambda a, b, m: (b * (b / a).log()).sum(),
                "skew_forward": lambda a, b, m: (a * (a / m).log()).sum(),
                "skew_reverse": lambda a, b, m: (b * (b / m).log()).sum(),
                "jensen_shannon": lambda a, b, m: (
                    settings.mix * (a * (a / m).log()).sum()
                    + (1 - settings.mix) * (b * (b / m).log()).sum()
                ),
            }[settings.kind](a, b, m)
        )
    return torch.stack(out) * row_temperature[:, 0] ** 2


SUPPORTS = [Support(), Support(top_k=3), Support(threshold=0.05)]


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("kind", get_args(DivergenceKind))
def test_it_is_the_weighted_mean_of_the_definition_with_its_gradient(kind, support):
    s, t = rows(0).requires_grad_(), rows(1)
    settings = Divergence(kind, 0.3, support)
    row_temperature = torch.tensor([0.5, 1, 2, 1, 3, 0.7], dtype=torch.float64)
    weight = torch.tensor([1.0, 2, 0, 0.5, 1, 0])
    each = written_out(s, t, settings, row_temperature)
    expected = (each * weight).sum() / weight.sum()
    found = divergence(s, t, settings, temperature=row_temperature, weight=weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, s), torch.autograd.grad(expected, s)
    )


@pytest.mark.parametrize("kind", get_args(DivergenceKind))
def test_the_gradient_is_that_of_finite_differences_twice_through_one_graph(kind):
    s, t = rows(0, 3, 5).requires_grad_(), rows(1, 3, 5)
    support = Support(top_k=2)
    assert torch.autograd.gradcheck(
        lambda x: divergence(x, t, Divergence(kind, 0.3, support), temperature=2.0), s
    )
    loss = divergence(s, t, Divergence(kind))
    first = torch.autograd.grad(2 * loss, s, retain_graph=True)[0].clone()
    torch.testing.assert_close(first, 2 * torch.autograd.grad(loss, s)[0])


def test_forward_kl_equals_the_librarys_in_float32():
    s, t = rows(0, 40, 500, torch.float32), rows(1, 40, 500, torch.float32)
    s.requires_grad_()
    theirs = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")
    ours = divergence(s, t)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, s), torch.autograd.grad(theirs, s)
    )


def test_long_rows_of_any_size_are_right_with_room_for_the_gradient_and_in_place():
    s, t = rows(0, 6, 20_000, torch.float32), rows(1, 6, 20_000, torch.float32)
    s[1] += 300  # beyond what float32 can exponentiate
    t[2] -= 300
    s[3], t[3] = 5000 * s[3], 5000 * t[3]
    t[4, ::2] = -math.inf
    weight = torch.tensor([1.0, 2, 1, 1e-6, 1, 0])
    x = s.double().requires_grad_()
    logits = x.masked_fill(t.isneginf(), -1e30)
    log_q, log_p = logits.log_softmax(-1), t.double().log_softmax(-1)
    each = torch.special.xlogy(log_p.exp(), log_p.exp()) - log_p.exp() * log_q
    expected = (each.sum(-1) * weight).sum() / weight.sum()
    (pull,) = torch.autograd.grad(expected, x)
    scale = weight / weight.sum()
    in_place, spare = s.clone(), t.clone()
    losses = pull_(in_place, spare, Divergence(), torch.ones(6), scale)
    s.requires_grad_()
    loss = divergence(s, t, weight=weight)
    (gradient,) = torch.autograd.grad(loss, s)
    for value, got in (((losses * scale).sum(), in_place), (loss, gradient)):
        torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got, pull.float(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", get_args(DivergenceKind))
def test_shifts_and_permutations_change_nothing_and_the_same_logits_are_apart_by_0(
    kind,
):
    s, t = rows(0), rows(1)
    settings = Divergence(kind)
    base = divergence(s, t, settings)
    order = torch.randperm(V, generator=torch.Generator().manual_seed(0))
    shifted = divergence(s + 100, t - torch.arange(6.0)[:, None], settings)
    torch.testing.assert_close(shifted, base)
    torch.testing.assert_close(divergence(s[:, order], t[:, order], settings), base)
    assert abs(divergence(t, t, settings)) < 1e-12
    assert base > 0


def test_naming_all_tokens_is_the_whole_vocabulary():
    s, t = rows(0), rows(1)
    full = divergence(s, t)
    named = Divergence(support=Support(top_k=V))
    torch.testing.assert_close(divergence(s, t, named), full)
    fewer = divergence(s, t, Divergence(support=Support(top_k=2)))
    assert fewer < full  # a bucket hides what is within it


def test_a_hot_temperature_compares_centred_logits_and_a_cold_one_the_best_tokens():
    s, t = rows(0), rows(1)
    # T -> inf: T^2 KL -> mean squared difference of centred logits / 2
    apart = (t - t.mean(-1, keepdim=True)) - (s - s.mean(-1, keepdim=True))
    limit = apart.square().mean(-1).mean() / 2
    hot = divergence(s, t, temperature=1e4)
    torch.testing.assert_close(hot, limit, rtol=1e-3, atol=0)
    # T -> 0: T KL -> how much the student prefers its best token to the teacher's
    best = t.argmax(-1, keepdim=True)
    margin = (s.amax(-1) - s.gather(1, best)[:, 0]).mean()
    cold = divergence(s, t, temperature=1e-3) / 1e-3
    torch.testing.assert_close(cold, margin, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("kind", get_args(DivergenceKind))
def test_extreme_and_forbidden_logits_stay_finite_in_bfloat16(kind):
    t = torch.full((5, 7), 1e4, dtype=torch.bfloat16)
    s = -t
    t[0, 1] = s[1, 2] = -math.inf  # forbidden to one of them
    t[2, :3] = s[2, :3] = -math.inf  # to both
    t[3] = -math.inf  # everything: padding
    t[4], s[4] = 0, 0
    t[4, 0], s[4, 1] = 1e4, 1e4
    s.requires_grad_()
    loss = divergence(s, t, Divergence(kind))
    loss.backward()
    assert loss.isfinite()
    assert s.grad.isfinite().all()


def test_a_forbidden_token_is_left_out_of_both_and_the_rest_renormalised():
    s, t = rows(0), rows(1)
    forbidden = t.clone()
    forbidden[:, 4] = -math.inf
    kept = [i for i in range(V) if i != 4]
    expected = divergence(s[:, kept], t[:, kept])
    torch.testing.assert_close(divergence(s, forbidden), expected)


def test_rows_without_weight_are_not_looked_at():
    s, t = rows(0), rows(1)
    s[2:] = math.nan
    s.requires_grad_()
    weight = torch.tensor([1.0, 1, 0, 0, 0, 0])
    loss = divergence(s, t, weight=weight)
    loss.backward()
    torch.testing.assert_close(loss, divergence(s[:2], t[:2]))
    assert (s.grad[2:] == 0).all()
    assert divergence(s, t, weight=torch.zeros(6)) == 0
    assert divergence(s[:1], t[:1]) > 0
    assert divergence(s[:0], t[:0]) == 0


def test_heads_rounded_up_differently_count_up_to_the_smaller():
    s, t = rows(0, columns=V + 3).requires_grad_(), rows(1)
    loss = divergence(s, t)
    loss.backward()
    torch.testing.assert_close(loss, divergence(s[:, :V], t))
    assert (s.grad[:, V:] == 0).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Divergence("sideways"), "one of 'forward', 'reverse'"),
        (lambda: Divergence(mix=1.0), r"\(0, 1\), got 1.0"),
        (lambda: Support(top_k=2, threshold=0.1), "give one of them"),
        (lambda: Support(threshold=1.0), r"\[0, 1\), got 1.0"),
        (lambda: divergence(rows(0), rows(1, 5)), "do not match"),
        (lambda: divergence(rows(0), rows(1), temperature=0.0), "> 0, got 0.0"),
        (lambda: divergence(rows(0), rows(1), weight=torch.ones(2)), "6 rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
