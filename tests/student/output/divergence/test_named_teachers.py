"""A teacher of which likeliest tokens are kept beside the one they were kept of."""

from itertools import product
from typing import get_args

import pytest
import torch

from align.errors import InputError
from align.tokens.named_head import NamedHead, NamedTokens
from align.views import LinearHead
from student.output import (
    Divergence,
    HeadInput,
    Support,
    linear_divergence,
    linear_log_likelihood,
    linear_top_tokens,
    support_beside,
)
from student.output.divergence.row_divergence import DivergenceKind

V, K = 40, 6


@pytest.fixture(scope="module")
def sides():
    """Student (hidden, head), the live teacher and what was kept of it; the ids."""
    draw = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    ids = torch.randint(V, (9,), generator=draw)
    teacher = HeadInput(normal(9, 8), LinearHead(normal(V, 8), normal(V)))
    logits = teacher.hidden @ teacher.head.weight.T + teacher.head.bias
    kept = NamedTokens.of(logits, ids, K).rows(ids)
    student = normal(9, 5), LinearHead(normal(V, 5))
    return student, teacher, HeadInput(kept, NamedHead(V, K)), ids


KINDS = get_args(DivergenceKind)


@pytest.mark.parametrize(("kind", "k"), list(product(KINDS, (K, 3))))
def test_it_teaches_as_the_live_one_that_names_as_many(sides, kind, k):
    (hidden, head), live, named, _ = sides
    support = Support(top_k=k)
    losses, gradients = [], []
    for teacher in (live, named):
        states = hidden.clone().requires_grad_()
        settings = Divergence(kind, 0.3, support_beside(teacher.head, support))
        loss = linear_divergence(states, head, [teacher], settings, block=4)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(states.grad)
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_without_a_limit_it_names_what_was_kept_and_never_more(sides):
    named = sides[2].head
    assert support_beside(named, Support()) == Support(top_k=K)
    assert support_beside(named, Support(top_k=K + 1)) == Support(top_k=K)
    assert support_beside(sides[1].head, Support()) == Support()
    with pytest.raises(InputError, match=r"threshold=0\.1 .* 6 likeliest"):
        support_beside(named, Support(threshold=0.1))


def test_the_token_that_came_and_the_likeliest_are_as_likely_as_live(sides):
    _, live, named, ids = sides
    following = ids.roll(-1)
    said = [
        linear_log_likelihood(side.hidden, side.head, following, block=4)[:-1]
        for side in (live, named)
    ]
    torch.testing.assert_close(*said)
    top = [linear_top_tokens(side.hidden, side.head, 3) for side in (live, named)]
    assert top[0].ids.equal(top[1].ids)
    torch.testing.assert_close(top[0].left_out, top[1].left_out, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="7 likeliest tokens are asked"):
        linear_top_tokens(named.hidden, named.head, K + 1)
