import math

import pytest
import torch

from align.views import LinearHead
from student.output.divergence.top_tokens import (
    linear_top_tokens,
    masked_log_softmax,
    support_sizes,
    top_tokens,
)


def made(rows=5, width=4, size=9, bias=True):
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(size, width, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(size, dtype=torch.float64, requires_grad=True)
    return hidden, LinearHead(weight, offset if bias else None)


@pytest.mark.parametrize("bias", [True, False])
def test_through_a_head_they_are_those_of_its_logits(bias):
    hidden, head = made(bias=bias)
    logits = hidden @ head.weight.T + (head.bias if bias else 0)
    whole, found = top_tokens(logits, 3), linear_top_tokens(hidden, head, 3, block=2)
    for name in ("logits", "ids", "log_total", "entropy", "left_out"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name))
    parameters = [hidden, head.weight] + ([head.bias] if bias else [])
    pull = torch.randn_like(found.logits)
    expected = torch.autograd.grad((whole.logits * pull).sum(), parameters)
    got = torch.autograd.grad((found.logits * pull).sum(), parameters)
    torch.testing.assert_close(got, expected)


def test_gradients_through_a_head_are_those_of_finite_differences():
    hidden, head = made()

    def chosen(hidden, weight, bias):
        return linear_top_tokens(hidden, LinearHead(weight, bias), 2, block=3).logits

    assert torch.autograd.gradcheck(chosen, (hidden, head.weight, head.bias))


def test_statistics_are_those_of_the_whole_vocabulary():
    logits = torch.randn(4, 9, dtype=torch.float64)
    found = top_tokens(logits, 3)
    p = logits.softmax(-1)
    torch.testing.assert_close(found.entropy, -(p * p.log()).sum(-1))
    torch.testing.assert_close(found.log_total, logits.logsumexp(-1))
    torch.testing.assert_close(found.left_out, 1 - p.sort(-1).values[:, -3:].sum(-1))
    assert (found.logits.diff(dim=1) <= 0).all()


def test_all_tokens_leave_nothing_out():
    found = top_tokens(torch.randn(4, 9), 100)
    assert found.ids.shape == (4, 9)
    assert found.left_out.abs().max() < 1e-6


def test_extreme_logits_stay_finite_in_bfloat16():
    logits = torch.tensor([[1e4, -1e4, 0, -math.inf], [0.0, 0, 0, 0]]).bfloat16()
    found = top_tokens(logits, 2)
    assert found.entropy.tolist() == pytest.approx([0, math.log(4)])
    assert found.left_out.tolist() == pytest.approx([0, 0.5])
    assert found.logits.dtype == torch.float32


def test_half_precision_heads_give_and_get_their_own_dtype():
    hidden, head = made(bias=False)
    half = LinearHead(head.weight.detach().bfloat16().requires_grad_())
    found = linear_top_tokens(hidden.detach().bfloat16(), half, 3)
    found.logits.sum().backward()
    assert found.logits.dtype == torch.float32
    assert half.weight.grad.dtype == torch.bfloat16


def test_a_limited_row_keeps_its_first_tokens():
    found = top_tokens(torch.randn(3, 9), 4).limited(torch.tensor([1, 3, 9]))
    assert found.logits.isfinite().sum(1).tolist() == [1, 3, 4]
    assert masked_log_softmax(found.logits, 0.5)[0, 0] == 0


def test_sizes_follow_the_entropy_within_limits():
    entropy = torch.tensor([0.0, math.log(3), math.log(1000)])
    assert support_sizes(entropy, 50, 4).tolist() == [4, 6, 50]
    assert support_sizes(entropy, 50, multiple=1).tolist() == [1, 3, 50]


def test_temperatures_differ_by_row():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    got = masked_log_softmax(logits, torch.tensor([1.0, 2.0])).exp()[:, 1]
    torch.testing.assert_close(got, torch.sigmoid(torch.tensor([1.0, 0.5])))


def test_wrong_arguments_are_named():
    hidden, head = made()
    with pytest.raises(ValueError, match="k is 0"):
        top_tokens(torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match=r"hidden has shape \(5, 3\)"):
        linear_top_tokens(hidden[:, :3], head, 2)
    with pytest.raises(ValueError, match="smallest=3, largest=2"):
        support_sizes(torch.zeros(1), 2, 3)
