import math

import pytest
import torch

from fuse.fuse_kv import fuse_with_weights
from fuse.routers.router import LearnableRouter
from fuse.routing_loss import (
    EntropyRegularizer,
    expected_teacher_loss,
    weigh_losses,
)
from fuse.routing_stats import routing_entropy


def test_the_two_targets_have_opposite_signs_by_hand():
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    mean = 0.5 * math.log(2)
    sharp = EntropyRegularizer(target="specialized", strength=0.01)
    broad = EntropyRegularizer(target="diverse", strength=0.01)
    assert sharp.compute_loss(weights).item() == pytest.approx(0.01 * mean)
    assert broad.compute_loss(weights).item() == pytest.approx(-0.01 * mean)
    masked = sharp.compute_loss(weights, mask=torch.tensor([True, False]))
    assert masked.item() == pytest.approx(0.01 * math.log(2))


@pytest.mark.parametrize("target", ["specialized", "diverse"])
def test_descent_sharpens_or_flattens_a_router(target):
    torch.manual_seed(0)
    router = LearnableRouter(8, 3)
    torch.nn.init.normal_(router.score.weight, std=0.5)
    query = torch.randn(32, 8)
    before = routing_entropy(router(query)).mean().item()
    regularizer = EntropyRegularizer(target=target, strength=1.0)
    optimizer = torch.optim.Adam(router.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        regularizer.compute_loss(router(query)).backward()
        optimizer.step()
    after = routing_entropy(router(query)).mean().item()
    if target == "specialized":
        assert after < 0.25 * before
    else:
        assert after > before and after > 0.99 * math.log(3)


def test_strength_grows_linearly_over_the_warmup():
    regularizer = EntropyRegularizer(strength=0.4, warmup_steps=4)
    steps = [regularizer.strength_at(s) for s in (0, 1, 2, 4, 100, None)]
    assert steps == pytest.approx([0, 0.1, 0.2, 0.4, 0.4, 0.4])
    weights = torch.tensor([[0.5, 0.5]])
    assert regularizer.compute_loss(weights, step=0) == 0
    assert EntropyRegularizer(strength=0.4).strength_at(0) == 0.4


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"target": "sharp"}, "'sharp'; choose from specialized, diverse"),
        ({"strength": -1.0}, "must be >= 0, got -1.0"),
    ],
)
def test_a_bad_regularizer_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        EntropyRegularizer(**bad)


def test_weighed_losses_by_hand_teach_the_student_and_not_the_router():
    losses = torch.tensor([[1.0, 3.0], [2.0, 2.0]], requires_grad=True)
    weights = torch.tensor([[0.25, 0.75], [0.0, 0.0]], requires_grad=True)
    weighed = weigh_losses(losses, weights)
    torch.testing.assert_close(weighed, torch.tensor([2.5, 0.0]))
    weighed.sum().backward()
    torch.testing.assert_close(losses.grad, torch.tensor([[0.25, 0.75], [0, 0]]))
    assert weights.grad is None


def test_expected_teacher_loss_by_hand():
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], requires_grad=True)
    losses = torch.tensor([[1.0, 4.0, 7.0], [1.0, 1.0, 1.0]])
    available = torch.tensor([True, True, False])  # the third is an encoder
    # (0.5 * 1 + 0.25 * 4) / 0.75 = 2; the second row weighs no decoder
    loss = expected_teacher_loss(weights, losses, available)
    assert loss.item() == pytest.approx(2.0)
    assert expected_teacher_loss(weights, losses).item() == pytest.approx(2.125)
    loss.backward()
    assert weights.grad.isfinite().all() and weights.grad[0, 0] < weights.grad[0, 1]
    nothing = expected_teacher_loss(weights, losses, torch.zeros(3).bool())
    assert nothing == 0


def test_a_teacher_without_a_loss_on_a_text_leaves_the_others_theirs():
    """A decoder gives no bits per character of a text that is one token to it."""
    weights = torch.tensor([[0.5, 0.5], [0.5, 0.5]], requires_grad=True)
    losses = torch.tensor([[math.inf, 3.0], [math.inf, math.inf]])
    loss = expected_teacher_loss(weights, losses)
    assert loss.item() == 3.0  # of the first row; the second has none
    loss.backward()
    assert weights.grad.isfinite().all()


def test_expected_loss_with_a_diverse_term_ends_at_the_posterior():
    # minimum of E[loss] - s * entropy is softmax(-loss / s), here at s = 0.5
    scores = torch.zeros(1, 3, requires_grad=True)
    losses = torch.tensor([[1.0, 1.5, 2.0]])
    regularizer = EntropyRegularizer(target="diverse", strength=0.5)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        w = scores.softmax(-1)
        (expected_teacher_loss(w, losses) + regularizer.compute_loss(w)).backward()
        optimizer.step()
    target = (-losses / 0.5).softmax(-1)
    torch.testing.assert_close(scores.softmax(-1), target, atol=1e-3, rtol=1e-3)


def test_the_teachers_own_losses_train_a_router():
    torch.manual_seed(0)
    kind = torch.arange(64) % 2
    query = torch.randn(64, 8) + 2 * torch.nn.functional.one_hot(kind, 8)
    own = torch.where(kind[:, None] == torch.arange(3), 1.0, 1.5)
    available = torch.tensor([True, True, False])
    router = LearnableRouter(8, 3)
    optimizer = torch.optim.Adam(router.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        expected_teacher_loss(router(query), own, available).backward()
        optimizer.step()
    assert (router(query)[:, :2].argmax(-1) == kind).float().mean() > 0.9


def routed_world():
    """Two teachers of one text: one trivially easy, one that knows the answer.

    The student can already copy the easy teacher (a constant), whose values say
    nothing about the labels. The informative teacher's values carry the label
    but lie outside of what the student can produce.
    """
    torch.manual_seed(0)
    label = torch.randint(0, 2, (256,))
    easy = torch.zeros(1, 256, 1, 4)
    informative = torch.randn(1, 256, 1, 4)
    informative[..., 0] = 4.0 * label[None, :, None] - 2
    student = 0.1 * torch.randn(1, 256, 1, 4)  # cannot see the label
    query = torch.randn(256, 8)
    return label, [easy, informative], student, query


def train(router, loss_of):
    optimizer = torch.optim.Adam(router.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()


def test_a_router_trained_by_the_kv_distance_takes_the_easiest_teacher():
    _, teachers, student, query = routed_world()
    router = LearnableRouter(8, 2)
    train(
        router,
        lambda: (fuse_with_weights(teachers, router(query)) - student).square().mean(),
    )
    assert router(query)[:, 0].mean() > 0.9  # the easy one, which knows nothing


def test_a_router_trained_by_the_outcome_takes_the_informative_teacher():
    label, teachers, student, query = routed_world()
    router = LearnableRouter(8, 2)
    student = student.clone().requires_grad_()

    def loss():
        weights = router(query)
        fused = fuse_with_weights(teachers, weights)  # (1, B, 1, C)
        logits = torch.stack([-fused[0, :, 0, 0], fused[0, :, 0, 0]], dim=-1)
        outcome = torch.nn.functional.cross_entropy(logits, label)
        distances = torch.stack(
            [(t - student).square().mean((0, 2, 3)) for t in teachers]
        )
        return outcome + weigh_losses(distances.T, weights).mean()

    train(router, loss)
    assert router(query)[:, 1].mean() > 0.9
    assert student.grad.abs().sum() > 0  # the KV loss still teaches the student
