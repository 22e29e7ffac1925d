"""What the contracts say of strangers' faults."""

from collections.abc import Iterator

from plugins.contracts.check import CONTRACTS
from plugins.promise import Check, Promise
from plugins.seeds import chance
from tests.plugins.broken import (
    aligners,
    balancers,
    curricula,
    functions,
    matches,
    objectives,
    routers,
    selectors,
    spaces,
)

BROKEN = {
    "aligner": aligners.BROKEN,
    "router": routers.BROKEN,
    "space": spaces.BROKEN,
    "objective": objectives.BROKEN,
    "balancer": balancers.BROKEN,
    "curriculum": curricula.BROKEN,
    "selector": selectors.BROKEN,
    "layer_map": functions.LAYER_MAPS,
    "adapter": functions.ADAPTERS,
    "rope_scaler": functions.ROPE_SCALERS,
    "distance": matches.DISTANCES,
    "projector": matches.PROJECTORS,
    "schedule": functions.TEMPERATURES,
    "phase": functions.PHASES,
}


def first_broken(kind: str, name: str, beginning: str = "") -> Check | None:
    """The first promise of a kind that one of ``BROKEN`` does not keep.

    Args:
        kind: of plugin.
        name: in ``BROKEN[kind]``.
        beginning: only promises that begin so are tried, one after another; the
            later ones are left untried.
    """
    promises: Iterator[Promise] = CONTRACTS[kind](BROKEN[kind][name])
    with chance(271828):  # a seed that no fault sets
        for promise in promises:
            if promise.name.startswith(beginning):
                result = promise.tried()
                if not result.ok:
                    return result
    return None
