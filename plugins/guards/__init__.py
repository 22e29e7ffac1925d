"""Strangers' code while it runs: what it answers is checked, what it raises is named.

A guard stands in for what a plugin offers and looks like it: modules stay the modules
that they are (parameters, state, ``to``), other objects keep their attributes. Every
answer is checked by :mod:`plugins.answers`, and what was handed over by
:mod:`plugins.untouched`; the cost is some small operations a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from plugins.entry import Entry
from plugins.guards import functions, modules, space
from plugins.guards.shared import blamed

__all__ = ["blamed", "guard"]


def guard(entry: Entry, offered: Any) -> Any:
    """Stand in for what a plugin offers.

    Args:
        entry: whose it is; decides the kind.
        offered: the factory or function; a mapping is handed back as it is.
    """
    made = _GUARDS.get(entry.kind)
    return offered if made is None else made(entry, offered)


_GUARDS: Mapping[str, Callable[[Entry, Any], Any]] = {
    **functions.GUARDS,
    "router": modules.router,
    "space": space.space,
    "objective": modules.objective,
    "projector": modules.projector,
    "balancer": modules.balancer,
    "selector": modules.selector,
}
"""By kind; a phase is data, checked when it is read."""
