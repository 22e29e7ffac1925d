"""The contract of ways of writing: ours keep it, faults break it."""

import pytest

from plugins.contracts.check import check
from teacher.writing import WAYS


class Faulty:
    """Draws two texts and keeps both, and breaks one promise."""

    by_likelihood = False
    asked = 0

    def __init__(self, fault):
        self.fault = fault
        if fault == "says nothing":
            self.by_likelihood = None

    def fields(self):
        Faulty.asked += 1
        more = {
            "length": {"max_new_tokens": 9},
            "unknown": {"warmth": 2.0},
            "drifts": {"temperature": 0.05 if Faulty.asked % 2 else 50.0},
        }
        drawn = {"do_sample": True, "top_k": 0, "num_return_sequences": 2}
        return drawn | more.get(self.fault, {})

    def chosen(self, candidates):
        Faulty.asked += 1
        kept = {"twice": [0, 0], "none": [], "outside": [2]}
        if self.fault == "draws":
            return [Faulty.asked % 2]
        return kept.get(self.fault, [0, 1])


def broken(factory):
    return {result.name for result in check("writer", factory) if not result.ok}


@pytest.mark.parametrize("name", WAYS)
def test_built_in_writers_keep_it(name):
    assert not broken(WAYS[name])


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("says nothing", "says whether texts weigh by their likelihood"),
        ("length", "sets nothing of generation that is the caller's"),
        ("unknown", "sets nothing of generation that is the caller's"),
        ("drifts", "has the same written from the same seed"),
        ("twice", "keeps some of the candidates, none twice"),
        ("none", "keeps some of the candidates, none twice"),
        ("outside", "keeps some of the candidates, none twice"),
        ("draws", "keeps the same of the same candidates"),
    ],
)
def test_a_fault_breaks_the_promise_that_names_it(fault, promise):
    assert promise in broken(lambda: Faulty(fault))


def test_one_without_faults_keeps_all():
    assert not broken(lambda: Faulty(""))
