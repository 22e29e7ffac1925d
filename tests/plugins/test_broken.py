"""Strangers' faults: none of them passes its contract, and none ends in a report."""

import pytest

from tests.plugins.checked import BROKEN, checked

EVERY = [(kind, name) for kind, named in BROKEN.items() for name in named]


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=map("-".join, EVERY))
def test_a_contract_finds_what_is_broken(kind, name):
    broken = [result for result in checked(kind, name) if not result.ok]
    assert broken
    assert all(result.detail for result in broken)
