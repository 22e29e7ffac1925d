"""The contract of makers of students: ours keep it, faults break it."""

import pytest

from plugins.contracts.check import check
from teacher.making import Made, with_layers
from teacher.making.built_in import MAKERS


class Faulty:
    """Keeps two layers, and lies about one thing."""

    needs_sample = False

    def __init__(self, fault):
        self.fault = fault
        self.asked = 0
        if fault == "says nothing":
            self.needs_sample = None

    def __call__(self, model, sample=None):
        self.asked += 1
        kept = [0, 1]
        made = with_layers(model, kept)
        if self.fault == "shares":
            made.model.embed_tokens.weight = model.model.embed_tokens.weight
        if self.fault == "config":
            made.config.num_hidden_layers = 3
        return Made(
            model=made,
            layers=(0, 9) if self.fault == "origins" else tuple(kept),
            done="",
        )


def broken(factory):
    return {result.name for result in check("student_maker", factory) if not result.ok}


@pytest.mark.parametrize("name", MAKERS)
def test_built_in_makers_keep_it(name):
    assert not broken(MAKERS[name])


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("says nothing", "says whether it needs a sample"),
        ("origins", "says where each layer of the student is from"),
        ("shares", "leaves the source as it is"),
        ("config", "makes what plain transformers loads whole"),
    ],
)
def test_a_fault_breaks_the_promise_that_names_it(fault, promise):
    assert promise in broken(lambda: Faulty(fault))
