import pytest
import torch

from align.tokens.named_head import NamedHead, NamedTokens
from align.views import LinearHead
from student.output.across.pooling import pool_head, pool_logits
from student.output.divergence import linear


def test_pooling_adds_the_probabilities_of_a_piece():
    torch.manual_seed(0)
    logits = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    piece = torch.tensor([2, 0, -1, 0, 1, 0])
    got = pool_logits(logits, piece, 3)
    groups = [[1, 3, 5], [4], [0]]
    expected = torch.stack([logits[:, g].logsumexp(1) for g in groups], 1)
    torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(lambda x: pool_logits(x, piece, 3), logits)


def test_pooling_extreme_logits_stays_finite_in_bfloat16():
    logits = torch.tensor([[1e4, -1e4, 0, -torch.inf]]).bfloat16().requires_grad_()
    got = pool_logits(logits, torch.tensor([0, 1, 1, 1]), 2)
    torch.testing.assert_close(got, torch.tensor([[9984.0, 0.0]]))
    got.sum().backward()
    assert logits.grad.isfinite().all()
    with pytest.raises(ValueError, match="give \\(N, V\\) and \\(V,\\)"):
        pool_logits(logits, torch.tensor([0]), 1)


V = 40


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pieces():
    """(V,) of 11 pieces, of which the last has one token alone, and some none."""
    piece = torch.randint(-1, 10, (V,), generator=torch.Generator().manual_seed(3))
    piece[17] = 10
    return piece


@pytest.mark.parametrize("k", [1, 6, V])
def test_of_named_tokens_it_is_the_pool_of_all_logits(pieces, k):
    ids = torch.tensor([17, 3, 3, 39, 0, 5, 17, 8, 1])
    # One more than ids, of a vocabulary that another head is larger than by two.
    rows = NamedTokens.of(drawn(9, V + 2) * 4, ids, k).rows(ids)
    rows[2, :k] = -1  # a server that named fewer
    head = NamedHead(V, k)
    pooled, total = pool_head(rows, head, pieces, 11, dtype=torch.float64)
    dense = head.logits(rows.double())
    torch.testing.assert_close(pooled, pool_logits(dense, pieces, 11))
    torch.testing.assert_close(total, dense.logsumexp(1))


def test_a_teacher_that_is_sure_to_a_hundred_nats_leaves_finite_numbers(pieces):
    ids = torch.tensor([3, 4])
    rows = NamedTokens.of(drawn(2, V) * 200, ids, 6).rows(ids)
    pooled, total = pool_head(rows, NamedHead(V, 6), pieces, 11, dtype=torch.float32)
    dense = NamedHead(V, 6).logits(rows)
    torch.testing.assert_close(pooled, pool_logits(dense, pieces, 11))
    assert pooled.isfinite().all() and total.isfinite().all()


def test_of_a_matrix_few_logits_are_held_at_once(pieces, monkeypatch):
    hidden, head = drawn(9, 5), LinearHead(drawn(V, 5, seed=1), drawn(V, seed=2))
    held = []
    logits_of = linear.logits_of
    monkeypatch.setattr("student.output.across.pooling.LOGITS", 4 * V + 3)
    monkeypatch.setattr(
        "student.output.across.pooling.logits_of",
        lambda rows, *rest: held.append(len(rows)) or logits_of(rows, *rest),
    )
    pooled, total = pool_head(
        hidden, head, pieces, 11, dtype=torch.float32, all_tokens=True
    )
    assert held == [4, 4, 1]
    whole = logits_of(hidden, head, torch.float32)
    torch.testing.assert_close(pooled, pool_logits(whole, pieces, 11))
    torch.testing.assert_close(total, whole.logsumexp(1))


@pytest.mark.parametrize("head", [NamedHead(V, 6), LinearHead(drawn(V, 13))])
def test_pieces_of_another_vocabulary_are_refused(pieces, head):
    with pytest.raises(ValueError, match="shape \\(39,\\) beside a head of 40 tokens"):
        pool_head(drawn(2, head.width), head, pieces[1:], 11, dtype=torch.float32)
