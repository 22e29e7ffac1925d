"""The contract of transforms: ours keep it, faults break it."""

from functools import partial

import pytest
import torch

from plugins.contracts.check import check
from student.transforms import TRANSFORMS, FakeQuant, WeightTransform
from tests.everyday import some_daily


class Faulty(WeightTransform):
    """Halves weights, and breaks one promise."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.calls = fault, 0

    def attach(self, model):
        super().attach(model)
        if self.fault == "replaces":
            head = model.lm_head
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
        self.model = model

    def at(self, strength, step):
        if self.fault == "never gone":
            strength = max(strength, 0.1)
        if self.fault == "by hooks" and strength:
            self.model.lm_head.register_forward_hook(lambda *given: given[-1] * 2)
        super().at(strength, step)

    def changed(self, weight):
        self.calls += 1
        if self.fault == "remembers":
            return weight / (1 + self.calls)
        if self.fault == "no gradient":
            return weight.detach() / 2 + 0 * weight.sum()
        if self.fault == "draws":
            return weight * torch.rand(1).item()
        return weight / 2


def broken(factory):
    return {result.name for result in check("transform", factory) if not result.ok}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_built_in_transforms_keep_it(name):
    assert not broken(TRANSFORMS[name])


@pytest.mark.slow
def test_learned_scales_keep_it():
    assert not broken(partial(FakeQuant, scales="learned", bits=3, group=8))


@pytest.mark.parametrize(
    ("fault", "promise"),
    some_daily(
        [
            ("replaces", "leaves parameters the objects that they are"),
            ("never gone", "changes nothing at strength 0"),
            ("by hooks", "is exported as what was trained"),
            ("remembers", "remembers all in parameters and buffers"),
            ("draws", "is exported as what was trained"),
        ],
        lambda case: case[0] == "replaces",
    ),
)
def test_a_fault_breaks_the_promise_that_names_it(fault, promise):
    assert promise in broken(partial(Faulty, fault))
