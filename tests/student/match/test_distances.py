"""Every distance against an independent reference in float64."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel
from torch.nn import functional as F

from align.errors import InputError
from student.match import DISTANCES
from student.match.distance import of_rows

LAYERS, BATCH, TOKENS, WIDTH = 2, 3, 6, 4
EVERY = sorted(name for name, made in DISTANCES.items() if not of_rows(made))
"""Those of features."""
NEVER_0 = ("contrastive",)
"""Costs something even where the student is its teacher."""
ANY_ORDER = ("correlation", "mmd", "transport")
"""What no order of tokens changes."""
TURNED = ("cka", "gram")
"""What no rotation changes."""


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def sides():
    """A student's features, a teacher's, and weights: the second text is padded before,
    the third behind."""
    shape = (LAYERS, BATCH, TOKENS, WIDTH)
    weight = random(*shape[:3], seed=2).abs() + 0.1
    weight[:, 1, :2] = 0
    weight[:, 2, 4:] = 0
    return random(*shape), random(*shape, seed=1), weight


def numbers(x):
    return x.detach().numpy()


def test_token_by_token_as_torch_has_them(sides):
    pred, target, weight = sides
    for name, expected in {
        "mse": F.mse_loss(pred, target, reduction="none").mean(-1),
        "cosine": 1 - F.cosine_similarity(pred, target, dim=-1),
        "smooth_l1": F.smooth_l1_loss(pred, target, reduction="none").mean(-1),
    }.items():
        torch.testing.assert_close(DISTANCES[name]()(pred, target, weight), expected)
    sharp = DISTANCES["smooth_l1"](beta=0.1)(pred, target, weight)
    by_hand = ((pred - target).abs() - 0.05).mean(-1)
    far = ((pred - target).abs() > 0.1).all(-1)
    assert far.any()
    torch.testing.assert_close(sharp[far], by_hand[far])


def test_gram_compares_the_cosines_of_a_text_s_tokens_by_hand(sides):
    pred, target, weight = sides
    found = DISTANCES["gram"]()(pred, target, weight)
    for layer in range(LAYERS):
        for text in range(BATCH):
            known = weight[layer, text] > 0
            ours, theirs = (
                numbers(F.normalize(side[layer, text, known], dim=-1))
                for side in (pred, target)
            )
            apart = (ours @ ours.T - theirs @ theirs.T) ** 2  # 0 with itself
            expected = apart.sum(1) / (len(ours) - 1)
            np.testing.assert_allclose(numbers(found[layer, text, known]), expected)
            assert not found[layer, text, ~known].any()


def test_correlation_compares_numpys_between_channels(sides):
    pred, target, weight = sides
    for width in (None, 1):
        x, y = pred[..., :width], target[..., :width]
        found = DISTANCES["correlation"]()(x, y, weight)
        for layer in range(LAYERS):
            some = [numbers(s[layer].flatten(0, 1)).T for s in (x, y)]
            if width == 1:
                assert float(found[layer]) == 0
                continue
            w = numbers(weight[layer].flatten())
            covariances = [np.cov(side, aweights=w) for side in some]
            spreads = [np.sqrt(c.diagonal()) for c in covariances]
            ours, theirs = (
                c / np.outer(s, s) for c, s in zip(covariances, spreads, strict=True)
            )
            apart = (ours - theirs)[~np.eye(WIDTH, dtype=bool)] ** 2
            assert float(found[layer]) == pytest.approx(apart.mean(), rel=1e-10)
    scaled = DISTANCES["correlation"]()(3 * target - 7, target, weight)
    torch.testing.assert_close(scaled, torch.zeros_like(scaled), atol=1e-12, rtol=0)
    still = pred.clone()
    still[..., 0] = 5.0
    assert DISTANCES["correlation"]()(still, target, weight).isfinite().all()


def test_cka_is_the_alignment_of_two_centred_kernels(sides):
    pred, _, _ = sides
    target = random(LAYERS, BATCH, TOKENS, 7, seed=5)
    for tokens in (TOKENS, 1):  # more tokens than channels, and fewer
        x, y = pred[:, :, :tokens], target[:, :, :tokens]
        found = DISTANCES["cka"]()(x, y, torch.ones(LAYERS, BATCH, tokens))
        for layer in range(LAYERS):
            ours, theirs = (numbers(side[layer].flatten(0, 1)) for side in (x, y))
            count = len(ours)
            centre = np.eye(count) - 1 / count
            ours, theirs = (centre @ k @ k.T @ centre for k in (ours, theirs))
            lengths = np.linalg.norm(ours) * np.linalg.norm(theirs)
            expected = 1 - np.trace(ours @ theirs) / lengths
            np.testing.assert_allclose(float(found[layer]), expected, atol=1e-12)


def test_a_token_of_weight_two_is_two_tokens(sides):
    pred, target, _ = sides
    double = torch.ones(LAYERS, BATCH, TOKENS, dtype=torch.float64)
    double[:, 0, 0] = 2
    more = [torch.cat([side, side[:, :, :1]], 2) for side in (pred, target)]
    single = torch.ones(LAYERS, BATCH, TOKENS + 1)
    single[:, 1:, TOKENS] = 0
    for name in ("cka", "mmd"):
        options = {"bandwidth": 2.0} if name == "mmd" else {}
        distance = DISTANCES[name](**options)
        torch.testing.assert_close(
            distance(pred, target, double), distance(*more, single)
        )


def test_mmd_is_the_mean_of_three_kernels(sides):
    pred, target, _ = sides
    weight = torch.ones(LAYERS, BATCH, TOKENS)
    for width in (None, 0.7):
        found = DISTANCES["mmd"](bandwidth=width)(pred, target, weight)
        for layer in range(LAYERS):
            x, y = (numbers(side[layer].flatten(0, 1)) for side in (pred, target))
            apart = ((y[:, None] - y) ** 2).sum(-1)
            squared = width**2 if width else apart.mean()
            gamma = 1 / (2 * squared)
            within = rbf_kernel(x, x, gamma).mean() + rbf_kernel(y, y, gamma).mean()
            expected = within - 2 * rbf_kernel(x, y, gamma).mean()
            np.testing.assert_allclose(float(found[layer]), expected, atol=1e-12)
    few = DISTANCES["mmd"](tokens=5)(pred, target, weight)
    assert few.isfinite().all() and not torch.equal(few, found)


@pytest.mark.parametrize("negatives", ["text", "batch", "all"])
def test_contrastive_is_the_cross_entropy_of_finding_the_target(sides, negatives):
    pred, target, weight = sides
    found = DISTANCES["contrastive"](temperature=0.5, negatives=negatives)(
        pred, target, weight
    )
    text = torch.arange(BATCH * TOKENS) // TOKENS
    for layer in range(LAYERS):
        known = (weight[layer] > 0).flatten()
        x, y = (
            F.normalize(side[layer].flatten(0, 1)[known], dim=-1)
            for side in (pred, target)
        )
        same = text[known][:, None] == text[known]
        allowed = {"text": same, "batch": ~same, "all": same | True}[negatives]
        allowed = allowed | torch.eye(len(x), dtype=torch.bool)
        logits = (x @ y.T / 0.5).masked_fill(~allowed, -torch.inf)
        expected = F.cross_entropy(logits, torch.arange(len(x)), reduction="none")
        torch.testing.assert_close(found[layer].flatten()[known], expected)


@pytest.mark.parametrize("perturb", ["noise", "dropout"])
def test_a_target_is_found_among_perturbed_copies_of_itself(sides, perturb):
    pred, target, weight = sides
    options = {"negatives": "perturbed", "perturb": perturb, "strength": 0.4}
    distance = DISTANCES["contrastive"](**options, copies=3, temperature=0.5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    apart = distance(pred, target, weight)
    other = distance(pred, target, weight)
    torch.set_rng_state(state)
    assert torch.equal(distance(pred, target, weight), apart)
    assert not torch.equal(apart, other)
    torch.set_rng_state(state)
    sizes = target.square().mean(-1, keepdim=True).sqrt()
    every = [target]
    for _ in range(3):
        if perturb == "noise":
            every.append(target + 0.4 * sizes * torch.randn_like(target))
        else:
            kept = torch.empty_like(target).bernoulli_(0.6)
            every.append(target * kept)
    cosines = [F.cosine_similarity(pred, x, dim=-1, eps=1e-6) for x in every]
    logits = torch.stack(cosines, -1).flatten(0, 2) / 0.5
    first = torch.zeros(len(logits), dtype=torch.long)
    expected = F.cross_entropy(logits, first, reduction="none")
    torch.testing.assert_close(apart.flatten(), expected)
    nearer = distance(target, target, weight)
    assert float(nearer.mean()) < float(apart.mean())


def test_leaving_out_every_channel_is_refused():
    with pytest.raises(InputError, match=r"strength is 1.0.* give one below 1"):
        DISTANCES["contrastive"](negatives="perturbed", perturb="dropout", strength=1.0)


def test_spectrum_forgets_where_a_text_begins_and_is_at_most_the_plain_distance(sides):
    pred, target, _ = sides
    weight = torch.ones(LAYERS, BATCH, TOKENS)
    spectrum, mse = (DISTANCES[name]() for name in ("spectrum", "mse"))
    turned = spectrum(target.roll(2, dims=2), target, weight)
    torch.testing.assert_close(turned, torch.zeros_like(turned))
    assert float(mse(target.roll(2, dims=2), target, weight).mean()) > 0.1
    of_text = spectrum(pred, target, weight).mean(2)
    assert bool((of_text <= mse(pred, target, weight).mean(2)).all())
    # Parseval: with equal phases amplitudes are all there is
    torch.testing.assert_close(
        spectrum(3 * target, target, weight).mean(2),
        mse(3 * target, target, weight).mean(2),
    )


def test_transport_finds_a_text_in_any_order(sides):
    _, target, weight = sides
    weight = torch.ones_like(weight)
    for cost in ("cosine", "squared"):
        distance = DISTANCES["transport"](cost=cost)
        shuffled = distance(target[:, :, [3, 0, 5, 1, 2, 4]], target, weight)
        torch.testing.assert_close(shuffled, torch.zeros_like(shuffled))
    shifted = DISTANCES["transport"](cost="squared")(target + 2, target, weight)
    torch.testing.assert_close(shifted, torch.full_like(shifted, 4.0))


def test_transport_is_the_best_assignment_that_scipy_finds(sides):
    pred, target, _ = sides
    weight = torch.ones(LAYERS, BATCH, TOKENS)
    found = DISTANCES["transport"]()(pred, target, weight)
    for layer in range(LAYERS):
        for text in range(BATCH):
            x, y = numbers(pred[layer, text]), numbers(target[layer, text])
            cost = cdist(x, y, "cosine")
            best = cost[linear_sum_assignment(cost)].mean()
            np.testing.assert_allclose(numbers(found[layer, text]), best, rtol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_the_teacher_itself_costs_nothing(name, sides):
    _, target, weight = sides
    apart = DISTANCES[name]()(target, target, weight)
    weighed = apart * weight if apart.dim() == 3 else apart
    nothing = torch.allclose(weighed, torch.zeros_like(apart), atol=1e-12)
    assert nothing == (name not in NEVER_0)


@pytest.mark.parametrize("name", EVERY)
def test_only_relations_do_not_notice_a_rotation(name, sides):
    _, target, weight = sides
    rotation = torch.linalg.qr(random(WIDTH, WIDTH, seed=3))[0]
    plain, turned = (
        DISTANCES[name]()(x, target, weight) for x in (target, target @ rotation)
    )
    same = torch.allclose(plain, turned, atol=1e-9)
    assert same == (name in TURNED)


@pytest.mark.parametrize("name", EVERY)
def test_a_permutation_of_tokens_is_noticed_where_places_count(name, sides):
    _, target, _ = sides
    weight = torch.ones(LAYERS, BATCH, TOKENS)
    order = [2, 0, 1, 5, 3, 4]
    distance = DISTANCES[name]()
    plain, moved = (
        distance(x, target, weight).mean() for x in (target, target[:, :, order])
    )
    assert (float(moved - plain) > 1e-6) == (name not in ANY_ORDER)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_those_of_finite_differences(name, sides):
    pred, target, weight = sides
    if name == "transport":  # a linear programme: kinks everywhere, none of them here
        pred = pred + 3
    distance = DISTANCES[name]()

    def cost(x):
        apart = distance(x, target[:, :2, :4], weight[:, :2, :4])
        return apart * (weight[:, :2, :4] if apart.dim() == 3 else 1)

    assert torch.autograd.gradcheck(cost, pred[:, :2, :4].clone().requires_grad_())


@pytest.mark.parametrize("name", EVERY)
def test_padding_on_either_side_changes_nothing_and_gets_no_gradient(name, sides):
    pred, target, weight = sides
    distance = DISTANCES[name]()

    def cost(x, y, w):
        apart = distance(x, y, w)
        return (apart * w).sum() if apart.dim() == 3 else apart.sum()

    pred.requires_grad_()
    plain = cost(pred, target, weight)
    (gradient,) = torch.autograd.grad(plain, pred)
    empty = (weight == 0)[..., None]
    assert empty.any() and not gradient[empty.expand_as(pred)].any()
    others = torch.where(empty, 9.0, pred), torch.where(empty, -5.0, target)
    torch.testing.assert_close(cost(*others, weight), plain)
    longer = [F.pad(x, (0, 0, 1, 2), value=3.0) for x in others]
    torch.testing.assert_close(cost(*longer, F.pad(weight, (1, 2))), plain)


@pytest.mark.parametrize("name", EVERY)
def test_a_layer_is_compared_by_its_own_tokens(name, sides):
    pred, target, weight = sides
    weight[0, 0, 1] = 0
    weight[1, 2, 0] = 0
    distance = DISTANCES[name]()
    other = torch.where((weight == 0)[..., None], 9.0, target)
    together = distance(pred, target, weight)
    for layer, apart in enumerate(distance(pred, other, weight)):
        one = [x[layer : layer + 1] for x in (pred, target, weight)]
        alone, kept = distance(*one)[0], weight[layer] > 0
        for each in (apart, together[layer]):
            if each.dim():
                each, alone = each[kept], alone[kept] if alone.dim() > 1 else alone
            torch.testing.assert_close(each, alone)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kept", [0, 1])
def test_no_token_and_one_cost_nothing_but_what_they_are(name, kept, sides):
    pred, target, _ = sides
    weight = torch.zeros(LAYERS, BATCH, TOKENS)
    weight[:, 0, :kept] = 1
    pred.requires_grad_()
    apart = DISTANCES[name]()(pred, target, weight)
    total = (apart * weight).sum() if apart.dim() == 3 else apart.sum()
    assert total.isfinite()
    if kept == 0:
        assert float(total.detach()) == pytest.approx(0, abs=1e-12)
    total.backward()  # also where nothing is compared: processes agree on what learns
    assert pred.grad.isfinite().all()
