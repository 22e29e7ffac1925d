"""Strangers' faults: none of them passes its contract, and none ends in a report."""

import pytest

from tests.plugins.checked import BROKEN, first_broken

EVERY = [(kind, name) for kind, named in BROKEN.items() for name in named]


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=map("-".join, EVERY))
def test_a_contract_finds_what_is_broken(kind, name):
    result = first_broken(kind, name)
    assert result is not None
    assert result.detail
