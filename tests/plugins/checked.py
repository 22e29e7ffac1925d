"""What the contracts say of strangers' faults, each tried once a session."""

from functools import cache

from plugins.contracts.check import check
from plugins.promise import Check
from tests.plugins.broken import (
    aligners,
    balancers,
    functions,
    matches,
    objectives,
    routers,
    spaces,
)

BROKEN = {
    "aligner": aligners.BROKEN,
    "router": routers.BROKEN,
    "space": spaces.BROKEN,
    "objective": objectives.BROKEN,
    "balancer": balancers.BROKEN,
    "layer_map": functions.LAYER_MAPS,
    "adapter": functions.ADAPTERS,
    "rope_scaler": functions.ROPE_SCALERS,
    "distance": matches.DISTANCES,
    "projector": matches.PROJECTORS,
    "temperature": functions.TEMPERATURES,
    "phase": functions.PHASES,
}


@cache
def checked(kind: str, name: str) -> tuple[Check, ...]:
    """The result of every promise of a kind on one of ``BROKEN``."""
    return tuple(check(kind, BROKEN[kind][name]))
