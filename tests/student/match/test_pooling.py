"""Stretches of tokens in place of tokens."""

import pytest
import torch

from plugins.contracts.step import step_context
from student.match.pooling import pooled
from tests.student.match.test_term import met


def test_a_stretch_is_the_weighted_mean_of_its_tokens_by_hand():
    x = torch.tensor([1.0, 3, 5, 7, 9])[None, None, :, None]
    weight = torch.tensor([1.0, 3, 0, 2, 4])[None, None]
    pred, target, weighs = pooled(x, 10 * x, weight, 2)
    assert pred.flatten().tolist() == [2.5, 7, 9]
    assert target.flatten().tolist() == [25, 70, 90]
    assert weighs.flatten().tolist() == [4, 2, 4]
    assert pooled(x, x, weight, 1)[2] is weight


def test_stretches_without_weight_are_finite_and_longer_padding_changes_none():
    x, weight = torch.randn(1, 1, 6, 2), torch.tensor([[[1.0, 1, 1, 0, 0, 0]]])
    pred, _, weighs = pooled(x, x, weight, 2)
    assert pred.isfinite().all() and weighs.flatten().tolist() == [2, 1, 0]
    wide = torch.cat([x, torch.full_like(x, 9.0)], 2)
    longer = pooled(wide, wide, torch.cat([weight, 0 * weight], -1), 2)
    torch.testing.assert_close(longer[0][:, :, :3], pred)


def test_a_term_weighs_stretches_as_their_tokens():
    ctx = step_context(size=40)[0]
    with_pool = met(distance="gram", pool=100)(ctx)  # one stretch has no other
    assert float(with_pool.detach()) == pytest.approx(0)
    plain, coarse = (met(distance="gram", pool=p)(ctx) for p in (1, 4))
    assert float(coarse.detach()) > 0 and not torch.equal(plain, coarse)
