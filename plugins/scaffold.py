"""Write a new plugin: a small package that installs, works and tests itself."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from plugins.errors import PluginError
from plugins.hookspecs import kind_now
from plugins.registry import KINDS
from plugins.templates import EXAMPLES, MODULE, PYPROJECT, README, TEST

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def new_plugin(name: str, kind: str, directory: str | Path = ".") -> Path:
    """Write a package that offers one thing, as a start.

    The code is a working example of its kind; replace its body. The distribution
    and its folder are called ``mtkd-<name>``, the module ``mtkd_<name>``, with ``-``
    resp. ``_`` throughout.

    Args:
        name: what configs will say: lower-case letters, digits, ``_`` and ``-``.
        kind: a key of :data:`plugins.registry.KINDS`, such as ``router``.
        directory: where the package's folder is made; created if absent.

    Returns:
        The package's folder, new.

    Raises:
        PluginError: another kind, an unusable name, or the folder exists.
    """
    kind = kind_now(kind)
    if kind not in EXAMPLES:
        raise PluginError(
            f"{kind!r} is no kind of plugin; kinds are {', '.join(EXAMPLES)}"
        )
    if not _NAME.fullmatch(name):
        raise PluginError(
            f"a plugin cannot be called {name!r}; use lower-case letters, digits, "
            "'_' and '-', a letter first"
        )
    words = _words(name, kind)
    folder = Path(directory) / words["distribution"]
    if folder.exists():
        raise PluginError(f"{str(folder)!r} exists; choose another name or directory")
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{words['module']}.py": MODULE,
        f"tests/test_{words['module']}.py": TEST,
    }
    for relative, template in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.substitute(words), encoding="utf-8")
    return folder


def _words(name: str, kind: str) -> dict[str, str]:
    ident = name.replace("-", "_")
    words = {
        "name": name,
        "ident": ident + "_" * keyword.iskeyword(ident),
        "NAME": ident.upper(),
        "Class": "".join(part.capitalize() for part in ident.split("_")),
    }
    offered, imports, code = (Template(x).substitute(words) for x in EXAMPLES[kind])
    return words | {
        "kind": kind,
        "hook": KINDS[kind],
        "module": f"mtkd_{ident}",
        "distribution": f"mtkd-{ident.replace('_', '-')}",
        "offered": offered,
        "imports": imports,
        "code": code.strip() + "\n",
    }
