"""Names of a package that are imported when somebody first asks for them (PEP 562).

``align``, ``teacher`` and others give on names whose files import torch, a second of
processor time; a command that lists recipes imports only what lies beside those files.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy_names(
    package: str,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package that imports nothing at first.

    What the package gives on stands once in its ``__init__.py``, as imports under ``if
    TYPE_CHECKING:``, where type checkers and editors look, too; it is read from there
    when the first name is asked for::

        if TYPE_CHECKING:
            from align.kv import KV
        else:
            __getattr__, __dir__ = lazy_names(__name__)

    Args:
        package: its ``__name__``.

    Returns:
        The two functions; the first raises ``AttributeError`` for other names.
    """
    homes: dict[str, tuple[str, str]] = {}

    def look_up(name: str) -> Any:
        if name.startswith("__"):  # what the import machinery asks of any package
            raise _missing(package, name)
        if not homes:
            homes.update(_names_given_on(package))
        if name not in homes:
            raise _missing(package, name)
        module, its_name = homes[name]
        value = getattr(import_module(module), its_name)
        setattr(sys.modules[package], name, value)  # next time without a look
        return value

    def names() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *getattr(module, "__all__", ())})

    return look_up, names


def _missing(package: str, name: str) -> AttributeError:
    return AttributeError(f"module {package!r} has no attribute {name!r}")


def _names_given_on(package: str) -> dict[str, tuple[str, str]]:
    """By its name here, the module of each name and its name there."""
    spec = find_spec(package)
    assert spec is not None and spec.loader is not None
    source = spec.loader.get_source(package)  # type: ignore[attr-defined]
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
