"""Strangers' faults: none of them passes its contract, and none ends in a report."""

import pytest

from tests.everyday import some_daily
from tests.plugins.checked import BROKEN, first_broken

EARLY = ("a_pair", "pairs_only", "bidirectional", "joined_heads", "everywhere")
EVERY = [(kind, name) for kind, named in BROKEN.items() for name in named]


def cheap(case):
    """A space is asked all about a student's step, where few faults show early."""
    kind, name = case
    return (kind != "space" or name in EARLY) and name != "slow"


@pytest.mark.parametrize(("kind", "name"), some_daily(EVERY, cheap, "-".join))
def test_a_contract_finds_what_is_broken(kind, name):
    result = first_broken(kind, name)
    assert result is not None
    assert result.detail
