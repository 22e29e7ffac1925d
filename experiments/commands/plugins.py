"""``mtkd plugins``: list, check, new."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.commands.parser import (
    JSON,
    PLUGIN_OPTIONS,
    Command,
    Group,
    option,
    registry_of,
)
from experiments.commands.tables import print_table

if TYPE_CHECKING:
    from plugins.entry import Entry
    from plugins.registry import Registry

KINDS = (
    "aligner, layer_map, adapter, rope_scaler, router, space, schedule, objective, "
    "distance, projector, balancer, selector, curriculum, teacher_source, "
    "student_maker, transform, writer, evaluator or phase"
)
"""What can be chosen, in words: a help text does not load what knows it."""

BUILT_IN = Path(__file__).with_name("built_in.json")
"""Names of every kind without strangers' plugins; `make docs` writes it."""


def list_plugins(options: Namespace) -> int:
    """List everything that a config can name, and what failed to load."""
    from plugins.entry import kind_now

    kind = None if options.kind is None else kind_now(options.kind)
    rows, failures = None, list[str]()
    if _none_but_ours(options):
        rows = built_in_rows()
    if rows is None or kind not in (None, *(row["kind"] for row in rows)):
        registry = registry_of(options, strict=False)
        rows, failures = registry.describe(), [str(f) for f in registry.failures]
        if kind is not None:
            registry.names(kind)  # refuses what is no kind
    if kind is not None:
        rows = [row for row in rows if row["kind"] == kind]
    if options.json:
        print(json.dumps({"plugins": rows, "failed": failures}, indent=1))
    else:
        heads = ["kind", "name", "plugin", "distribution", "version"]
        cells = [[row[head] for head in heads] for row in rows]
        print_table("what a config can name", heads, cells)
        for failure in failures:
            print(f"failed to load: {failure}")
    return 2 if failures else 0


def _none_but_ours(options: Namespace) -> bool:
    """Whether no plugin but the built-in ones loads, so that none need be loaded."""
    from plugins.discovery import ALLOW, none_wanted
    from plugins.entry import PROJECT

    if options.plugin:
        return False
    return none_wanted() or not (ALLOW in os.environ or entry_points(group=PROJECT))


def built_in_rows() -> list[dict[str, str]]:
    """What :meth:`plugins.Registry.describe` gives where nobody else's plugin is
    loaded, without importing what the names stand for: that takes seconds."""
    from plugins.entry import PROJECT, version_of_mtkd

    names: dict[str, list[str]] = json.loads(BUILT_IN.read_text(encoding="utf-8"))
    ours = {
        "plugin": "built-in",
        "distribution": PROJECT,
        "version": version_of_mtkd(),
    }
    phases = {"plugin": "built-in phases", "distribution": "-", "version": "-"}
    return [
        {"kind": kind, "name": name, **(phases if kind == "phase" else ours)}
        for kind in names
        for name in names[kind]
    ]


LIST = Command(
    name="list",
    action=list_plugins,
    what="list everything that a config can name, and what failed to load",
    examples=(
        ("mtkd plugins list", ""),
        ("mtkd plugins list --kind router --json", "for other programs"),
    ),
    options=(
        option("--kind", help=f"one kind only: {KINDS} (all)"),
        JSON,
        *PLUGIN_OPTIONS,
    ),
)


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


CHECK = Command(
    name="check",
    action=check_plugin,
    what="test one plugin against the contract of its kind",
    examples=(
        ("mtkd plugins check dirichlet", "an installed one, by name"),
        ("mtkd plugins check mine --plugin ./mine.py", "one in a file"),
        ("mtkd plugins check mean --kind router", "where several kinds share a name"),
    ),
    options=(
        option("name", help="the name a config would use"),
        option("--kind", help=f"its kind, where several share the name: {KINDS} (any)"),
        *PLUGIN_OPTIONS,
    ),
)


def new_plugin(options: Namespace) -> int:
    """Write a small package with one plugin."""
    from plugins.scaffold import new_plugin as write

    folder = write(options.name, options.kind, options.dir)
    print(f"wrote {folder}")
    module = next(folder.glob("mtkd_*.py"))
    print(f"next: mtkd plugins check {options.name} --plugin {module}")
    print(f"then: pip install -e {folder}, and no --plugin is needed")
    return 0


NEW = Command(
    name="new",
    action=new_plugin,
    what="write a small package with one plugin, its test and its pyproject.toml",
    examples=(
        ("mtkd plugins new my-router", "a router, in ./mtkd-my-router"),
        (
            "mtkd plugins new my-loss --kind objective --dir ~/src",
            "in ~/src/mtkd-my-loss",
        ),
    ),
    options=(
        option("name", help="the name a config will use"),
        option("--kind", default="router", help=f"{KINDS} (router)"),
        option("--dir", default=".", help="folder in which mtkd-NAME is made (.)"),
    ),
)

PLUGINS = Group(
    name="plugins",
    what="list, check or start plugins",
    examples=(
        ("mtkd plugins list", "everything that a config can name"),
        ("mtkd plugins check dirichlet", "does it keep its kind's contract?"),
        ("mtkd plugins new my-router --kind router", "a package to start from"),
    ),
    commands=(LIST, CHECK, NEW),
)


def _called(registry: Registry, name: str, kind: str | None) -> Sequence[Entry]:
    from plugins.entry import kind_now

    if kind is not None:
        registry.get(kind, name)  # names what there is, if this is not
    called = [
        entry
        for entry in registry.entries()
        if entry.name == name and entry.kind == kind_now(kind or entry.kind)
    ]
    if called:
        return called
    from align.errors import InputError, meant

    known = [entry.name for entry in registry.entries()]
    raise InputError(
        f"no plugin offers {name!r}{meant(name, known)} `mtkd plugins list` shows all; "
        "give a module that is not installed by --plugin"
    )
