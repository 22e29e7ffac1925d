"""Every error of the project has one base."""

import ast
import errno
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

from align.errors import (
    InputError,
    MachineError,
    MissingFileError,
    MissingPackageError,
    MtkdError,
    RunError,
    exit_code_of,
    meant,
    nearest,
)
from tests.parsed import nodes_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("align", "teacher", "fuse", "student", "plugins", "experiments")
NO_ERRORS = {"BudgetSpent", "Cancelled", "Enough", "RunStopped"}
"""Exceptions that end a piece of work which went well."""


@cache
def exceptions():
    """(module, name) of every class that is named after an error."""
    return tuple(_exceptions())


def _exceptions():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in nodes_of(path, ast.ClassDef):
                if node.bases:
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


def catalogue():
    """Rows of docs/errors.md: the dotted name, its base, its exit code, the advice."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| `([\w.]+)` \|(.*)\|$", page, re.M):
        base, exit_code, when, advice = (cell.strip() for cell in row[1].split(" | "))
        yield row[0], (base.strip("`"), exit_code, when, advice)


def test_the_page_of_errors_lists_each_of_them_once():
    listed = [name for name, _ in catalogue()]
    errors = [f"{m}.{name}" for m, name in exceptions() if name not in NO_ERRORS]
    assert sorted(listed) == sorted(errors)


@pytest.mark.parametrize(("name", "row"), list(catalogue()))
def test_the_page_of_errors_says_what_each_is(name, row):
    base, exit_code, when, advice = row
    module, _, name = name.rpartition(".")
    error = getattr(importlib.import_module(module), name)
    assert base in {cls.__name__ for cls in error.__mro__[1:]}
    repeats = "exit_code" in inspect.signature(error.__init__).parameters
    assert exit_code == ("the other's" if repeats else str(error.exit_code))
    assert when and advice


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InputError, ValueError),
        (MissingFileError, FileNotFoundError),
        (MissingPackageError, ImportError),
        (MachineError, OSError),
        (RunError, RuntimeError),
    ],
)
def test_callers_in_python_may_catch_the_builtin_exception(error, builtin):
    with pytest.raises(builtin, match="teachers: give one"):
        raise error("teachers: give one")
    assert error("x").exit_code == 2


def _missing(name):
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "runs"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        _missing("deepspeed"),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_for_the_user_to_put_right(error):
    assert exit_code_of(error) == 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
        ValueError("too many values to unpack"),
        IndexError("list index out of range"),
        OSError("a socket broke"),
        ImportError("cannot import name 'x'"),
        _missing("align.nothing"),
    ],
    ids=repr,
)
def test_any_other_exception_is_a_mistake_in_a_program(error):
    assert exit_code_of(error) == 1


CONFIG_TYPES = {"sections.py", "config.py", "teacher_rule.py", "reference.py"}
"""Their ValueErrors become ConfigErrors where a config is built."""


def test_experiments_and_text_reading_refuse_by_errors_of_the_project_alone():
    files = [
        *(ROOT / "experiments").rglob("*.py"),
        ROOT / "align" / "text" / "records.py",
    ]
    files += [ROOT / "align" / "text" / "documents.py"]
    for path in [*files, ROOT / "teacher" / "loading" / "models.py"]:
        if path.name in CONFIG_TYPES or "bench" in path.parts:
            continue
        for node in nodes_of(path, ast.Raise):
            if isinstance(node.exc, ast.Call):
                raised = ast.unparse(node.exc.func)
                builtin = ("ValueError", "RuntimeError", "OSError", "FileNotFoundError")
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert raised not in builtin, f"{where}: raise align.errors.InputError"


def test_a_wrong_name_is_answered_by_the_nearest():
    names = ["quickstart", "train", "report"]
    assert nearest("quikstart", names) == "quickstart"
    assert nearest("zzz", names) is None
    assert meant("trian", names) == "; did you mean 'train'?"
    assert meant("zzz", names) == "."


def test_the_nearest_name_is_found_in_one_place():
    asking = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "get_close_matches" in path.read_text(encoding="utf-8")
    ]
    assert asking == ["align/errors.py"]
