"""Strangers' faults: none of them passes its contract, and none ends in a report."""

import pytest

from plugins.contracts.check import check
from tests.plugins.broken import aligners, functions, objectives, routers, spaces

BROKEN = {
    "aligner": aligners.BROKEN,
    "router": routers.BROKEN,
    "space": spaces.BROKEN,
    "objective": objectives.BROKEN,
    "layer_map": functions.LAYER_MAPS,
    "adapter": functions.ADAPTERS,
    "rope_scaler": functions.ROPE_SCALERS,
    "temperature": functions.TEMPERATURES,
    "phase": functions.PHASES,
}
EVERY = [(kind, name) for kind, named in BROKEN.items() for name in named]


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=map("-".join, EVERY))
def test_a_contract_finds_what_is_broken(kind, name):
    offered = BROKEN[kind][name]
    broken = [result for result in check(kind, offered) if not result.ok]
    assert broken
    assert all(result.detail for result in broken)
