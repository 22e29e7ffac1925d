"""A run tries what it uses: strangers' names go through their contracts before work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from plugins.contracts.check import check
from plugins.entry import Entry
from plugins.options import with_options
from plugins.registry import Registry

Name = tuple[str, str]
"""Kind and name."""
Options = Mapping[str, Any]
"""Of a plugin, by name."""


def foreign(registry: Registry, names: Iterable[Name]) -> list[Entry]:
    """The entries behind names that strangers offer, each once, in order.

    Raises:
        PluginError: nobody offers one of the names.
    """
    entries = [registry.entry(kind, name) for kind, name in dict.fromkeys(names)]
    return [entry for entry in entries if entry.foreign]


def try_used(
    registry: Registry,
    names: Iterable[Name],
    tried: Mapping[str, str] | None = None,
    options: Mapping[Name, Sequence[Options]] | None = None,
) -> dict[str, str]:
    """Put what strangers offer through its contract; what is ours keeps its own.

    Args:
        registry: knows the names.
        names: all that a run uses.
        tried: what an earlier call returned; the same code is not tried again.
        options: of names that are used with some, each way they are used.

    Returns:
        ``kind name`` -> a stamp of the plugin's code and of the contracts.

    Raises:
        PluginError: a promise is broken; names plugin, promise and what was found.
    """
    stamps = {}
    for entry in foreign(registry, names):
        ways = (options or {}).get((entry.kind, entry.name)) or [{}]
        key, stamp = f"{entry.kind} {entry.name}", _stamp(entry, ways)
        if not stamp or (tried or {}).get(key) != stamp:
            for way in ways:
                try_entry(entry, way)
        stamps[key] = stamp
    return stamps


def try_entry(entry: Entry, options: Options | None = None) -> None:
    """Put one thing through the contract of its kind.

    Args:
        entry: what a plugin offers.
        options: with which it is used.

    Raises:
        PluginError: naming the first promise that is broken.
    """
    offered = with_options(entry.value, options) if options else entry.value
    broken = [result for result in check(entry.kind, offered) if not result.ok]
    if not broken:
        return
    more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
    where = f" --plugin {entry.plugin}" if entry.distribution == "-" else ""
    kind = entry.kind.replace("_", " ")
    used = ", ".join(f"{name}: {value}" for name, value in (options or {}).items())
    raise entry.error(
        f"{f'with {used} ' if used else ''}breaks the promise "
        f"'{broken[0].name}'{more}: {broken[0].detail}. "
        f"Repair it{', give other options' if used else ''} or choose another {kind}; "
        f"`mtkd plugins check {entry.name}{where}` lists all promises"
    )


def _stamp(entry: Entry, ways: Sequence[Options]) -> str:
    """Of the code, the contracts and PyTorch; empty where there is no code to read."""
    if not entry.digest:
        return ""
    parts = [entry.digest, _contracts(), torch.__version__]
    if any(ways):
        parts.append(json.dumps(ways, sort_keys=True, default=str))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def _contracts() -> str:
    """SHA-256 over the files of this package."""
    hashed = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()
