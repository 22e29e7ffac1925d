import pytest
import torch
from torch.nn import functional as F

from align.views import LinearHead
from student.output import (
    Divergence,
    HeadInput,
    Labels,
    Support,
    linear_divergence,
    linear_log_likelihood,
)
from student.output.divergence.divergence import divergence

N, V = 7, 13


def draw(seed: int, *shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=dtype
    )


def student(bias: bool = True):
    """Hidden states and head, leaves with gradient."""
    sides = [draw(0, N, 4), draw(1, V, 4), draw(2, V)][: 2 + bias]
    return [x.requires_grad_() for x in sides]


def teacher(seed: int = 3, size: int = V, width: int = 6) -> HeadInput:
    return HeadInput(draw(seed, N, width), LinearHead(draw(seed + 1, size, width)))


def logits(one: HeadInput) -> torch.Tensor:
    return one.hidden @ one.head.weight.T


WEIGHT = torch.tensor([1.0, 2, 0, 0.5, 1, 0, 3])
HEAT = torch.tensor([0.5, 1, 2, 1, 3, 0.7, 1], dtype=torch.float64)
IDS = torch.tensor([0, 12, 3, 3, 7, 1, 5])
SETTINGS = [
    Divergence(),
    Divergence("reverse", support=Support(threshold=0.05)),
    Divergence("jensen_shannon", 0.3, Support(top_k=3)),
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", [V, V - 2, V + 5])
def test_it_equals_the_distance_of_whole_logits_with_both_gradients(settings, size):
    leaves = hidden, weight, bias = student()
    one = teacher(size=size)
    labels = Labels(IDS, torch.rand(N, generator=torch.Generator().manual_seed(9)), 0.1)
    whole = hidden @ weight.T + bias
    hard = F.cross_entropy(whole, IDS, reduction="none", label_smoothing=0.1)
    expected = divergence(whole, logits(one), settings, temperature=HEAT, weight=WEIGHT)
    expected = expected + (hard * labels.weight).sum()
    found = linear_divergence(
        hidden,
        LinearHead(weight, bias),
        [one],
        settings,
        temperature=HEAT,
        weight=WEIGHT,
        labels=labels,
        block=3,
    )
    torch.testing.assert_close(found, expected)
    again = torch.autograd.grad(3 * found, leaves, retain_graph=True)
    wanted = torch.autograd.grad(3 * expected, leaves)
    torch.testing.assert_close(again, wanted)
    torch.testing.assert_close(torch.autograd.grad(3 * found, leaves), wanted)


def test_its_gradients_are_those_of_finite_differences():
    def loss(hidden, weight, bias):
        head = LinearHead(weight, bias)
        return linear_divergence(
            hidden, head, [teacher()], SETTINGS[2], temperature=2.0, block=4
        )

    assert torch.autograd.gradcheck(loss, student())


def test_labels_alone_are_the_librarys_cross_entropy():
    hidden, weight = leaves = student(bias=False)
    labels = Labels(IDS, torch.full((N,), 1 / N), 0.2)
    expected = F.cross_entropy(hidden @ weight.T, IDS, label_smoothing=0.2)
    found = linear_divergence(hidden, LinearHead(weight), [], labels=labels, block=2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves)
    )


def test_several_teachers_are_one_distribution():
    hidden, weight = student(bias=False)
    sides = [teacher(3), teacher(5, width=9)]
    share = torch.rand(N, generator=torch.Generator().manual_seed(1)).double()
    share[0] = 1  # the second has no part in it
    logs = [share.log(), (1 - share).log()]
    mixed = [
        HeadInput(t.hidden, t.head, log) for t, log in zip(sides, logs, strict=True)
    ]
    p, r = (logits(t).softmax(-1) for t in sides)
    mean = share[:, None] * p + (1 - share)[:, None] * r
    found = linear_divergence(hidden, LinearHead(weight), mixed, block=3)
    torch.testing.assert_close(found, divergence(hidden @ weight.T, mean.log()))


def test_a_frozen_head_costs_no_gradient_and_blocks_change_nothing():
    hidden, weight = student(bias=False)
    weight.requires_grad_(False)
    results = []
    for block in (1, 3, 100):
        hidden.grad = None
        linear_divergence(
            hidden, LinearHead(weight), [teacher()], block=block
        ).backward()
        results.append(hidden.grad.clone())
        assert weight.grad is None
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_rows_without_weight_and_no_rows_at_all_give_zero():
    hidden, weight = student(bias=False)
    head = LinearHead(weight)
    nothing = linear_divergence(hidden, head, [teacher()], weight=torch.zeros(N))
    nothing.backward()
    assert nothing == 0
    assert (hidden.grad == 0).all()
    empty = HeadInput(draw(3, 0, 6), teacher().head)
    assert linear_divergence(hidden[:0], head, [empty]) == 0
    hidden = hidden.detach().clone()
    hidden[2] = torch.nan
    assert linear_divergence(hidden, head, [teacher()], weight=WEIGHT).isfinite()


def test_products_are_narrow_under_autocast_and_gradients_are_not():
    hidden, weight = (x.detach().float().requires_grad_() for x in student(bias=False))
    one = HeadInput(teacher().hidden.float(), LinearHead(teacher().head.weight.float()))

    def run():
        hidden.grad = weight.grad = None
        loss = linear_divergence(hidden, LinearHead(weight), [one], block=3)
        loss.backward()
        return loss.item(), hidden.grad.clone(), weight.grad.clone()

    exact = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = run()
    assert near[1].dtype == near[2].dtype == torch.float32
    assert 0 < abs(near[0] - exact[0]) < 0.05 * exact[0]
    for a, b in zip(near[1:], exact[1:], strict=True):
        assert 0 < (a - b).norm() < 0.05 * b.norm()


def test_the_likelihood_is_that_of_whole_logits_with_any_weights_of_its_rows():
    leaves = hidden, weight, bias = student()
    chosen = (hidden @ weight.T + bias).log_softmax(-1).gather(1, IDS[:, None])[:, 0]
    found = linear_log_likelihood(hidden, LinearHead(weight, bias), IDS, block=3)
    torch.testing.assert_close(found, chosen)
    torch.testing.assert_close(
        torch.autograd.grad((found * WEIGHT).sum(), leaves),
        torch.autograd.grad((chosen * WEIGHT).sum(), leaves),
    )
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_log_likelihood(h, LinearHead(w, b), IDS, 2), leaves
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teachers": [HeadInput(draw(0, N, 5), teacher().head)]}, "does not fit"),
        ({"teachers": [HeadInput(draw(0, 2, 6), teacher().head)]}, "2 rows"),
        ({"teachers": [teacher(), teacher()]}, "log_share"),
        ({"block": 0}, "block must be >= 1"),
        ({"labels": Labels(IDS + 1, torch.ones(N))}, "reach from 1 to 13.*13 rows"),
        ({"labels": Labels(IDS, torch.ones(N), 1.0)}, "smoothing"),
        ({"labels": Labels(IDS[:2], torch.ones(2))}, "give one each"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, said):
    hidden, weight = student(bias=False)
    given = {"teachers": [teacher()]} | change
    with pytest.raises(ValueError, match=said):
        linear_divergence(hidden, LinearHead(weight), **given)
