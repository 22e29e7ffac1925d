import random

import numpy as np
import pytest

from plugins.seeds import kept, seeded, states


@pytest.fixture(autouse=True)
def both_generators_are_left_as_they_were():
    restore = kept()
    yield
    restore()


@pytest.mark.parametrize("draws", [0, 1, 623, 624, 625, 30_000])
def test_drawing_is_not_seeding(draws):
    before = states()
    for _ in range(draws):
        random.getrandbits(32)
    np.random.bytes(4 * draws)
    assert seeded(before, states()) == ""


@pytest.mark.parametrize(
    ("library", "name"),
    [(random, "Python's random seed"), (np.random, "NumPy's random seed")],
)
@pytest.mark.parametrize("seed", [0, 5])
def test_seeding_is_told_by_name_even_to_the_seed_that_was_there(library, name, seed):
    library.seed(5)
    library.random()
    before = states()
    library.seed(seed)
    assert seeded(before, states()) == name
    library.random()
    assert seeded(before, states()) == (name if seed == 0 else "")


def test_what_was_kept_is_drawn_again():
    restore = kept()
    first = random.random(), np.random.rand()
    restore()
    assert (random.random(), np.random.rand()) == first
