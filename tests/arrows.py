"""Which file imports which of ours, at which line, through doors to the definition."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.parsed import nodes_in, nodes_of


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """One import of a file of ours by another."""

    source: Path
    line: int
    target: Path
    """Where the imported name is defined; a package's own file where it is imported
    whole."""


def arrows(path: Path, root: Path) -> list[Arrow]:
    """A file's imports of files below ``root``, in functions and for types too."""
    return [
        Arrow(source=path, line=line, target=target)
        for line, module, name in imports_of(path)
        if (target := _home(module, name, root)) not in (None, path)
    ]


def circle(graph: Mapping[str, Mapping[str, Arrow]]) -> list[Arrow]:
    """The imports by which some nodes lead back to themselves; empty: there are none.

    Args:
        graph: node -> the nodes it imports, each with an import that shows it.
    """
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        nodes = error.args[1]  # each imports the one before it
        pairs = zip(nodes[1:], nodes[:-1], strict=True)
        return [graph[importing][imported] for importing, imported in pairs]
    return []


def imports_of(path: Path) -> tuple[tuple[int, str, str | None], ...]:
    """Line, module, and the name that is taken out of it."""
    return _imports_in(path.read_text(encoding="utf-8"))


def relative_imports(path: Path) -> tuple[int, ...]:
    """Lines of imports that begin with a dot."""
    return tuple(n.lineno for n in nodes_of(path, ast.ImportFrom) if n.level)


@cache
def _imports_in(source: str) -> tuple[tuple[int, str, str | None], ...]:
    whole = [
        (node.lineno, alias.name, None)
        for node in nodes_in(source, ast.Import)
        for alias in node.names
    ]
    named = [
        (node.lineno, node.module, alias.name)
        for node in nodes_in(source, ast.ImportFrom)
        if node.module
        for alias in node.names
    ]
    return (*whole, *named)


@cache
def _home(module: str, name: str | None, root: Path) -> Path | None:
    """The file that defines a name; None where the module is not ours."""
    file = file_of(module, root)
    if file is None or name is None:
        return file
    if file.name != "__init__.py":
        return file
    behind, taken = _given_on(file.read_text(encoding="utf-8")).get(name, (module, ""))
    if file_of(behind, root) != file:
        return _home(behind, taken, root) or file
    return file_of(f"{module}.{taken or name}", root) or file


@cache
def _given_on(source: str) -> dict[str, tuple[str, str]]:
    """By its name here, module and name there of all that a package gives on."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in nodes_in(source, ast.ImportFrom)
        if node.module
        for alias in node.names
    }


@cache
def file_of(module: str, root: Path) -> Path | None:
    """A module's file; None where there is none below ``root``.

    Known from then on: :func:`forget` where files come or go.
    """
    return file_at(root.joinpath(*module.split(".")))


@cache
def file_at(base: Path) -> Path | None:
    """The file of a module or package that lies so; likewise known from then on."""
    files = (base.with_suffix(".py"), base / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def forget() -> None:
    """Look again where files are, and what packages give on."""
    for known in (_home, file_of, file_at):
        known.cache_clear()
