"""Learned weights end where their papers say."""

from dataclasses import replace

import pytest
import torch

from plugins.contracts.balancer import standing
from student.balance import GradNorm, Standing, Uncertainty


def of_losses(losses, gram=None, weights=None, step=0):
    size = len(losses)
    return Standing(
        names=tuple("abcde"[:size]),
        weights=torch.ones(size).double() if weights is None else weights,
        losses=losses.double(),
        gram=gram,
        step=step,
    )


def test_uncertainty_ends_at_the_size_of_its_loss():
    losses = torch.tensor([0.02, 1.0, 7.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)
    balancer = Uncertainty(tuple("abc")).double()
    given = of_losses(losses, weights=weights)
    optimizer = torch.optim.LBFGS(
        balancer.parameters(), tolerance_grad=1e-12, tolerance_change=0
    )

    def total():
        optimizer.zero_grad()
        balanced = balancer(given)
        loss = (balanced.weights * losses).sum() + balanced.loss
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(total)
    variance = (2 * balancer.log_sigma).exp().detach()
    torch.testing.assert_close(variance, losses, rtol=1e-5, atol=0)


def test_uncertainty_begins_at_the_config_and_leaves_silent_terms_alone():
    balancer = Uncertainty(tuple("abc")).double()
    given = of_losses(torch.tensor([0.5, 0.0, 2.0]))
    torch.testing.assert_close(balancer(given).weights, given.weights)
    balanced = balancer(given)
    ((balanced.weights * given.losses).sum() + balanced.loss).backward()
    assert balancer.log_sigma.grad[1] == 0 and balancer.log_sigma.grad[0] != 0


def test_uncertainty_goes_by_what_the_step_compares_not_the_pass():
    balancer = Uncertainty(tuple("ab")).double()
    compared = torch.tensor([True, True])
    given = replace(of_losses(torch.tensor([0.5, 0.0])), compared=compared)
    balanced = balancer(given)
    ((balanced.weights * given.losses).sum() + balanced.loss).backward()
    assert balancer.log_sigma.grad[1] == 1  # of log σ alone: its loss is elsewhere


def train_gradnorm(balancer, scales, steps):
    """Two quadratics, ``s_i (x - a_i)² / 2`` in ten dimensions, as the paper's toy of
    one task at two scales; the student stands, so that the weights have an end."""
    aims = torch.tensor([[1.0] * 10, [-1.0] * 10], dtype=torch.float64)
    x = torch.full((10,), 0.2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.02)
    values = [s * (x - a).square().sum() / 2 for s, a in zip(scales, aims, strict=True)]
    pulls = torch.stack([torch.autograd.grad(v, x)[0] for v in values])
    losses, gram = torch.stack(values).detach(), pulls @ pulls.T
    for step in range(steps):
        optimizer.zero_grad()
        balancer(of_losses(losses, gram, step=step)).loss.backward()
        optimizer.step()
    return balancer(of_losses(losses, gram)).weights, pulls.norm(dim=1)


def test_gradnorm_makes_gradients_of_two_quadratics_equally_long():
    balancer = GradNorm(("a", "b"), alpha=0.0).double()
    weights, norms = train_gradnorm(balancer, (1.0, 5.0), 400)
    lengths = (weights * norms).tolist()
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)
    assert float(weights.sum()) == pytest.approx(2) and weights[0] > weights[1]


def test_gradnorm_prefers_what_has_learned_less():
    """The seed of this rule has the other sign."""
    balancer = GradNorm(("a", "b"), alpha=1.0).double()
    gram = torch.eye(2, dtype=torch.float64)
    balancer(of_losses(torch.tensor([1.0, 1.0]), gram))
    later = of_losses(torch.tensor([0.9, 0.1]), gram)  # the second has learned
    balancer(later).loss.backward()
    assert balancer.scores.grad[0] < 0 < balancer.scores.grad[1]
    assert balancer.first.tolist() == [1.0, 1.0]


def test_gradnorm_by_hand():
    balancer = GradNorm(("a", "b"), alpha=1.0).double()
    gram = torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))
    # v = (1, 1), lengths 3 and 1, mean 2, all at their first size: |3 - 2| + |1 - 2|
    balanced = balancer(of_losses(torch.tensor([2.0, 4.0]), gram))
    assert balanced.loss.item() == pytest.approx(2 / 2)
    assert not balanced.weights.requires_grad
    # later L/L(0) is 1/2 and 1, rates 2/3 and 4/3: |3 - 4/3| + |1 - 8/3|, over 2
    later = balancer(of_losses(torch.tensor([1.0, 4.0]), gram))
    assert later.loss.item() == pytest.approx((5 / 3 + 5 / 3) / 2)


def test_a_term_that_comes_later_has_its_first_size_then():
    balancer = GradNorm(tuple("abcde"))
    balancer(standing(silent=(2,)))
    assert balancer.first[2] == 0 and (balancer.first[[0, 1, 3, 4]] > 0).all()
    before = balancer.first.clone()
    later = standing(step=1)
    balancer(later)
    assert balancer.first[2] == later.losses[2]
    assert torch.equal(balancer.first[[0, 1, 3, 4]], before[[0, 1, 3, 4]])
