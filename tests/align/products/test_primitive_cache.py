import os

import pytest

from align.products.primitive_cache import CACHES, KEPT, bound_primitive_caches
from tests.fresh import answers, given

_PRODUCTS = """
import torch
from align.products.primitive_cache import KEPT, bound_primitive_caches
from align.support.process_memory import resident

def answer(width):
    bound_primitive_caches()
    torch.set_num_threads(1)
    weight = torch.randn(256, width, dtype=torch.bfloat16)
    for rows in range(1, 3 * KEPT + 1):
        if rows == KEPT + 1:
            before = resident()
        torch.randn(rows, width, dtype=torch.bfloat16) @ weight.T
    return resident() - before
"""


@pytest.fixture
def environment(monkeypatch):
    """Without either limit; put back afterwards."""
    for name in CACHES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_both_caches_are_bounded_unless_a_user_has(environment):
    environment.setenv(CACHES[1], "7")
    bound_primitive_caches()
    assert [os.environ[name] for name in CACHES] == [str(KEPT), "7"]


@pytest.mark.slow
def test_products_of_ever_new_shapes_take_no_more_and_more_memory(environment):
    """On an EPYC 33 MiB for 256 new shapes; 142 to 168 where either is unbounded."""
    (grown,) = answers(_PRODUCTS, [64])
    assert given(grown) < 80 * 2**20
