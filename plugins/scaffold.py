"""Write a new plugin: a small package that installs, works and tests itself."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from plugins.entry import kind_now
from plugins.errors import PluginError
from plugins.registry import KINDS
from plugins.templates import EXAMPLES

_NAME = re.compile(r"[a-z][a-z0-9_-]*")

MODULE = Template(
    '''"""The $kind $name for mtkd."""

${imports}
from plugins import hookimpl

$code

@hookimpl
def $hook():
    """Offer it by name."""
    return {"$name": $offered}
'''
)

TEST = Template(
    """from $module import $offered
from plugins import Registry
from plugins.contracts import assert_contract


def test_it_keeps_the_contract_of_its_kind():
    assert_contract("$kind", $offered)


def test_it_is_found_by_name():
    assert Registry.load(["$module"]).get("$kind", "$name") is $offered
"""
)

PYPROJECT = Template(
    """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$distribution"
version = "0.1.0"
description = "The $kind $name for mtkd"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["mtkd"]

[project.entry-points.mtkd]
$name = "$module"

[tool.setuptools]
py-modules = ["$module"]
"""
)

README = Template(
    """# $distribution

The $kind `$name` for mtkd.

```sh
pip install -e .
mtkd plugins list    # shows $name
pytest               # tries the contract of its kind
```

What a $kind has to do is said in `plugins.hookspecs`, hook `$hook`.
"""
)


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
