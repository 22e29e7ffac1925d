"""Whose code made a store, so that no run reads what other code made."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from experiments.config.parsing import ConfigError
from experiments.config.used_plugins import changed_code, records_of
from plugins.registry import Registry
from plugins.trial import Name
from teacher.store import KVStore
from teacher.store.manifest import PLUGINS


def code_of(registry: Registry, names: Iterable[Name]) -> dict[str, JsonValue]:
    """The fingerprint's field on strangers' code; none where all is built in.

    Where a plugin lies is left out: another machine may have it elsewhere.

    Args:
        registry: knows the names.
        names: all whose answers are stored.
    """
    records: dict[str, JsonValue] = {
        key: {"version": record["version"], "digest": record["digest"]}
        for key, record in records_of(registry, names).items()
    }
    return {PLUGINS: records} if records else {}


def check_code(
    stores: Iterable[KVStore], registry: Registry, changed_plugins: bool = False
) -> None:
    """Refuse stores that a plugin made whose code has changed since.

    Stores of versions that kept no code, and names that nobody offers now, pass.

    Args:
        stores: that are read.
        registry: knows the names.
        changed_plugins: go on all the same.

    Raises:
        ConfigError: names store, plugin and both digests.
    """
    for store in stores:
        before = store.plan.fingerprint.get(PLUGINS)
        if not isinstance(before, dict) or changed_plugins:
            continue
        keys = [key.partition(" ") for key in before]
        names = [(kind, name) for kind, _, name in keys if name in registry.names(kind)]
        changed = changed_code(before, records_of(registry, names))  # type: ignore[arg-type]
        if changed:
            raise ConfigError(
                f"{store.path} was extracted with other code: {'; '.join(changed)}. "
                "Put the old code back, read the store all the same by "
                "--changed-plugins, or extract again under another store.name"
            )
