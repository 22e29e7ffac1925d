"""Each promise of a space is kept by the built-ins and seen to fail by itself."""

import pytest
import torch

from align.time_align import Alignment
from plugins.contracts.space import space
from plugins.contracts.space.lesson import (
    lesson,
    reached,
    teacher_shapes,
    with_other_keys,
)
from student.bridges import AdapterBridge
from tests.plugins.broken.spaces import FAULTS
from tests.plugins.checked import first_broken


def test_every_promise_has_a_fault_that_it_finds():
    promises = [promise.name for promise in space(AdapterBridge)]
    assert len(FAULTS) == len(promises)
    for promise, beginning in zip(promises, FAULTS, strict=True):
        assert promise.startswith(beginning)


@pytest.mark.parametrize("beginning", FAULTS)
def test_a_promise_is_seen_to_fail(beginning):
    assert first_broken("space", FAULTS[beginning], beginning) is not None


def test_the_future_is_what_the_causal_alignment_has_not_reached():
    (view,) = lesson(teacher_shapes((1,))).views
    pairs = torch.tensor([[0, 0], [1, 1], [3, 2]])
    causal = Alignment(pairs[:, 0], pairs[:, 1], torch.ones(3), (1, 4, 3))
    object.__setattr__(view, "causal", causal)
    assert reached(view, 1).tolist() == [[False, True, True, True]]
    assert reached(view, 2).tolist() == [[False, False, False, True]]


def test_other_keys_begin_at_a_token():
    (view,) = lesson(teacher_shapes((1,))).views
    other = with_other_keys(view, 2)
    assert torch.equal(other.kv.k[..., :2, :], view.kv.k[..., :2, :])
    assert not torch.isclose(other.kv.k[..., 2:, :], view.kv.k[..., 2:, :]).all()
