"""Every error of the project has one base."""

import ast
import importlib
from pathlib import Path

import pytest

from align.errors import (
    InputError,
    MachineError,
    MissingFileError,
    MissingPackageError,
    MtkdError,
)

ROOT = Path(__file__).parents[2]
PACKAGES = ("align", "teacher", "fuse", "student", "plugins", "experiments")
NO_ERRORS = {"RunStopped", "Cancelled", "Enough"}
"""Exceptions that end a piece of work which went well."""


def exceptions():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and node.bases:
                    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    last = ast.unparse(node.bases[-1])
                    if last.endswith(("Error", "Exception")):
                        yield module, node.name


def test_every_error_of_the_project_is_an_mtkd_error():
    seen = dict.fromkeys(name for _, name in exceptions())
    assert {"ConfigError", "StoreError", "PluginError", *NO_ERRORS} <= set(seen)
    for module, name in exceptions():
        found = getattr(importlib.import_module(module), name)
        assert issubclass(found, MtkdError) or name in NO_ERRORS, f"{module}.{name}"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InputError, ValueError),
        (MissingFileError, FileNotFoundError),
        (MissingPackageError, ImportError),
        (MachineError, OSError),
    ],
)
def test_callers_in_python_may_catch_the_builtin_exception(error, builtin):
    with pytest.raises(builtin, match="teachers: give one"):
        raise error("teachers: give one")
    assert error("x").exit_code == 2
