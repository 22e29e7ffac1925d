"""``mtkd plugins``: list, check, new."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from align.errors import InputError
from experiments.commands.train import print_table, with_plugins

if TYPE_CHECKING:
    from plugins.entry import Entry
    from plugins.registry import Registry


def list_plugins(options: Namespace) -> int:
    """List everything that a config can name, and what failed to load."""
    registry = registry_of(options, strict=False)
    rows = registry.describe()
    if options.kind is not None:
        registry.names(options.kind)  # refuses what is no kind
        rows = [row for row in rows if row["kind"] == options.kind]
    if options.json:
        failures = [str(failure) for failure in registry.failures]
        print(json.dumps({"plugins": rows, "failed": failures}, indent=1))
    else:
        heads = ["kind", "name", "plugin", "distribution", "version"]
        cells = [[row[head] for head in heads] for row in rows]
        print_table("what a config can name", heads, cells)
        for failure in registry.failures:
            print(f"failed to load: {failure}")
    return 2 if registry.failures else 0


def check_plugin(options: Namespace) -> int:
    """Test one plugin against the contract of its kind."""
    from rich.text import Text

    from plugins.contracts.check import check

    registry = registry_of(options, strict=False)
    broken = 0
    for entry in _called(registry, options.name, options.kind):
        results = check(entry.kind, entry.value)
        broken += sum(not result.ok for result in results)
        rows = [
            [
                Text("ok", "green") if result.ok else Text("broken", "bold red"),
                result.name,
                result.detail,
            ]
            for result in results
        ]
        title = f"{entry.kind} {entry.name!r} of {entry.origin}"
        print_table(title, ["", "promise", "detail"], rows)
    return 2 if broken else 0


def new_plugin(options: Namespace) -> int:
    """Write a small package with one plugin."""
    from plugins.scaffold import new_plugin as write

    folder = write(options.name, options.kind, options.dir)
    print(f"wrote {folder}")
    module = next(folder.glob("mtkd_*.py"))
    print(f"next: mtkd plugins check {options.name} --plugin {module}")
    print(f"then: pip install -e {folder}, and no --plugin is needed")
    return 0


def registry_of(options: Namespace, strict: bool) -> Registry:
    """Load the plugins that a command line asks for."""
    from experiments.config.presets import load_registry
    from experiments.config.tree import Config

    return load_registry(with_plugins(Config(), options), strict)


def _called(registry: Registry, name: str, kind: str | None) -> Sequence[Entry]:
    if kind is not None:
        registry.get(kind, name)  # names what there is, if this is not
    found = [
        entry
        for entry in registry.entries()
        if entry.name == name and kind in (None, entry.kind)
    ]
    if found:
        return found
    from difflib import get_close_matches

    known = [entry.name for entry in registry.entries()]
    near = get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    raise InputError(
        f"no plugin offers {name!r}{meant} `mtkd plugins list` shows all; give a "
        "module that is not installed by --plugin"
    )
