"""Shortest mixtures and projections, against SciPy, closed forms and by hand."""

import pytest
import torch
from scipy.optimize import minimize

from plugins.contracts.balancer import standing
from student.balance import Conflict, Pareto, min_norm_point, without_conflicts

NAMES = ("ce", "kd", "kv_k", "kv_v", "attention_kl")


def by_slsqp(gram):
    size = len(gram)
    found = minimize(
        lambda a: a @ gram @ a,
        [1 / size] * size,
        jac=lambda a: 2 * gram @ a,
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return torch.from_numpy(found.x)


def length(mixture, gram):
    return float(mixture @ gram @ mixture)


@pytest.mark.parametrize("seed", range(6))
def test_the_shortest_mixture_is_what_slsqp_finds(seed):
    chance = torch.Generator().manual_seed(seed)
    vectors = torch.randn(5, 7, generator=chance, dtype=torch.float64)
    vectors = vectors + 0.7 * torch.randn(7, generator=chance, dtype=torch.float64)
    vectors[0] *= 3
    gram = vectors @ vectors.T
    mixture = min_norm_point(gram)
    assert float(mixture.min()) >= 0 and float(mixture.sum()) == pytest.approx(1)
    reference = by_slsqp(gram.numpy())
    assert length(mixture, gram) <= length(reference, gram) + 1e-9
    torch.testing.assert_close(mixture, reference, atol=2e-4, rtol=0)
    # a step along it makes no term worse: g_i · d >= ‖d‖²
    along = gram @ mixture
    assert float(along.min()) >= length(mixture, gram) * (1 - 1e-9) - 1e-12


def test_two_gradients_have_a_closed_form():
    g1, g2 = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    gram = torch.stack([g1, g2]) @ torch.stack([g1, g2]).T
    share = float((g2 - g1) @ g2 / (g2 - g1).square().sum())
    expected = torch.tensor([share, 1 - share], dtype=torch.float64)
    torch.testing.assert_close(min_norm_point(gram), expected)
    longer = torch.tensor([[100.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    alone = torch.tensor([0.0, 1.0], dtype=torch.float64)  # the short one, whole
    torch.testing.assert_close(min_norm_point(longer), alone)


def test_opposed_gradients_cancel_and_lengths_far_apart_are_told():
    opposed = torch.tensor([[4.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    torch.testing.assert_close(min_norm_point(opposed), expected)
    apart = torch.diag(torch.tensor([1.0, 1e-12], dtype=torch.float64))
    share = float(min_norm_point(apart)[0])
    assert share == pytest.approx(1e-12 / (1 + 1e-12), rel=1e-6)


def test_perpendicular_equal_terms_weigh_as_without_a_balancer():
    given = standing(2)
    weights = torch.ones(2, dtype=torch.float64)
    gram = 9 * torch.eye(2, dtype=torch.float64)
    given = type(given)(
        names=given.names, weights=weights, losses=given.losses, gram=gram, step=0
    )
    for balancer in (Pareto(NAMES[:2]), Pareto(NAMES[:2], scale="norm")):
        torch.testing.assert_close(balancer(given).weights, weights)


@pytest.mark.parametrize("scale", ["none", "norm", "loss"])
def test_a_scaled_mixture_points_where_the_scaled_gradients_meet(scale):
    given = standing(4)
    weights = Pareto(NAMES[:4], scale=scale)(given).weights
    pulls = torch.linalg.cholesky(given.gram + 1e-12 * torch.eye(4).double())
    step = weights @ pulls
    own = given.weights[:, None] * pulls
    unit = {
        "none": torch.ones(4).double(),
        "norm": own.norm(dim=1),
        "loss": given.weights * given.losses,
    }[scale]
    along = own / unit[:, None] @ step  # equal where a term is in the mixture
    chosen = weights > 1e-9
    least = float(along.min())
    torch.testing.assert_close(
        along[chosen], torch.full((int(chosen.sum()),), least).double()
    )


def test_projections_by_hand():
    # g1 = (1, 0), g2 = (-1, 1): g1 - (g1·g2)/‖g2‖² g2 = g1 + g2/2; g2 + g1
    gram = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    mixture = without_conflicts(gram, torch.Generator())
    torch.testing.assert_close(mixture, torch.tensor([2.0, 1.5]).double())
    agreed = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        without_conflicts(agreed, torch.Generator()), torch.ones(2).double()
    )


def projected(vectors, chance):
    """Algorithm 1 of the paper, on the vectors themselves."""
    total = torch.zeros_like(vectors[0])
    for index, gradient in enumerate(vectors):
        kept = gradient.clone()
        for other in torch.randperm(len(vectors), generator=chance).tolist():
            along = kept @ vectors[other]
            if other != index and along < 0:
                kept -= along / vectors[other].square().sum() * vectors[other]
        total += kept
    return total


@pytest.mark.parametrize("seed", range(4))
def test_weights_add_up_to_the_projected_gradients(seed):
    vectors = torch.randn(
        4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    mixture = without_conflicts(vectors @ vectors.T, torch.Generator().manual_seed(7))
    reference = projected(vectors, torch.Generator().manual_seed(7))
    torch.testing.assert_close(mixture @ vectors, reference)


@pytest.mark.parametrize("moved", ["step", "seed"])
def test_the_order_of_projections_changes_by_step_and_seed_and_not_by_process(moved):
    weights = [Conflict(NAMES)(standing(step=0)).weights for _ in range(2)]
    assert torch.equal(*weights)
    first = standing()
    orders = {
        tuple(
            Conflict(NAMES)(
                type(first)(
                    names=first.names,
                    weights=first.weights,
                    losses=first.losses,
                    gram=first.gram,
                    **{moved: number},
                )
            ).weights.tolist()
        )
        for number in range(6)
    }
    assert len(orders) > 1
