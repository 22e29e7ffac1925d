"""Outputs of which likeliest tokens alone are kept."""

import math

import pytest
import torch

from align.tokens.named_head import NamedHead, NamedTokens

TEXT = torch.tensor([3, 1, 4, 0])


def logits():
    return torch.randn(4, 7, generator=torch.Generator().manual_seed(0)) * 3


def test_what_is_named_keeps_its_probability_and_the_rest_its_mass():
    exact = logits().log_softmax(-1)
    kept = NamedTokens.of(logits(), TEXT, 2)
    read = NamedHead(7, 2).logits(kept.rows(TEXT))
    torch.testing.assert_close(read.exp().sum(1), torch.ones(4))
    for place, next_id in enumerate([1, 4, 0, None]):
        named = set(exact[place].topk(2).indices.tolist()) | {next_id} - {None}
        others = [token for token in range(7) if token not in named]
        for token in named:
            assert float(read[place, token]) == pytest.approx(
                float(exact[place, token]), abs=1e-6
            )
        even = float(exact[place, others].exp().sum()) / len(others)
        assert read[place, others].exp().tolist() == pytest.approx([even] * len(others))
    assert kept.came.tolist()[:3] == exact[range(3), [1, 4, 0]].tolist()


def test_where_all_are_named_nothing_is_lost():
    kept = NamedTokens.of(logits(), TEXT, 7)
    read = NamedHead(7, 7).logits(kept.rows(TEXT))
    torch.testing.assert_close(read, logits().log_softmax(-1))


def test_a_row_by_hand_with_fewer_tokens_than_asked():
    kept = NamedTokens(
        ids=torch.tensor([[2, -1]]),
        log_probs=torch.tensor([[math.log(0.5), 0.0]]),
        came=torch.zeros(1),
        rest=torch.tensor([math.log(0.5)]),
    )
    read = NamedHead(5, 2).logits(kept.rows(torch.tensor([0])))
    expected = torch.tensor([[1 / 8, 1 / 8, 1 / 2, 1 / 8, 1 / 8]])
    torch.testing.assert_close(read.exp(), expected)


def test_no_token_that_is_not_named_is_likelier_than_one_that_is():
    kept = NamedTokens(
        ids=torch.tensor([[0, 1]]),
        log_probs=torch.tensor([[-1.0, -3.0]]),
        came=torch.zeros(1),
        rest=torch.tensor([-0.1]),  # of numbers that were rounded
    )
    read = NamedHead(4, 2).logits(kept.rows(torch.tensor([0])))
    assert float(read[0, 2:].max()) <= -3.0


@pytest.mark.parametrize("k", [2, 7])
def test_the_log_probability_of_one_token_is_that_among_all(k):
    kept = NamedTokens.of(logits(), TEXT, k)
    rows, head = kept.rows(TEXT), NamedHead(7, k)
    rows[1, 0] = -1  # fewer are named than asked, and rounded numbers add up to more
    rows[2, -1] = -0.1
    every = head.logits(rows).log_softmax(-1)
    for token in range(7):
        ids = torch.full((4,), token)
        torch.testing.assert_close(head.log_probs(rows, ids), every[:, token])
