"""Who may import whom, and what importing must not do."""

import ast
import json
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = {"align", "teacher", "fuse", "student"}
MAY_IMPORT: dict[str, set[str]] = {
    "align": set(),
    "teacher": {"align"},
    "fuse": {"align", "teacher"},
    "student": {"align", "fuse"},
    "plugins": CORE,
    "experiments": CORE | {"plugins"},
}
HEAVY = {
    "accelerate",
    "datasets",
    "deepspeed",
    "matplotlib",
    "scipy",
    "sklearn",
    "tensorboard",
    "tokenizers",
    "transformers",
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def modules_imported(path: Path) -> frozenset[str]:
    return _modules_in(path.read_text(encoding="utf-8"))


@cache
def _modules_in(source: str) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def files_imported(path: Path, root: Path = ROOT) -> set[Path]:
    """Our own files among what a file imports, in functions and for types too.

    ``from package import name`` reads ``package/__init__.py``, a door whose own imports
    lead on to where the name is defined.
    """
    found = set()
    for name in modules_imported(path):
        module = root.joinpath(*name.split("."))
        for step in (module, module.parent):  # a module, or a name in one
            files = (step.with_suffix(".py"), step / "__init__.py")
            here = [file for file in files if file.is_file()]
            if here:
                found.add(here[0])
                break
    return found - {path}


def circle_of(root: Path) -> list[str]:
    """A circle of files that import each other, empty where there is none."""
    files = [path for package in MAY_IMPORT for path in sources(package, root)]
    graph = {path: files_imported(path, root) for path in files}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(path.relative_to(root)) for path in error.args[1]]
    return []


def sources(package: str, root: Path = ROOT) -> list[Path]:
    return sorted((root / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_follow_the_table(package):
    assert sources(package)
    for path in sources(package):
        ours = imported(path) & set(MAY_IMPORT) - {package}
        assert ours <= MAY_IMPORT[package], path


def test_no_files_import_each_other_in_a_circle():
    assert circle_of(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        # step_outputs -> (door) -> next_token -> step_outputs, closed in the door ...
        (
            "student/output/__init__.py",
            "from student.terms.next_token import OBJECTIVES",
        ),
        # ... behind it, and through another package's door
        (
            "student/step_outputs.py",
            "from student.terms.next_token import OBJECTIVES",
        ),
        ("align/kv.py", "def late():\n    from align import Alignment"),
    ],
    ids=["in a door", "behind a door", "in a function, through a door"],
)
def test_a_circle_through_a_packages_door_is_seen(file, line, tmp_path):
    for package in MAY_IMPORT:
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda _, names: [n for n in names if n == "__pycache__"],
        )
    with (tmp_path / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    assert file in circle_of(tmp_path)


def test_the_maths_of_outputs_knows_no_settings_and_no_steps():
    for path in sorted((ROOT / "student" / "output").rglob("*.py")):
        for name in modules_imported(path):
            maths = name.startswith("student.output.")
            assert maths or not name.startswith("student"), f"{path} imports {name}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_are_absolute_and_nobody_imports_scripts_or_tests(package):
    for path in sources(package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        relative = [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level
        ]
        assert not relative, f"{path}:{relative[0]} imports relatively"
        assert not imported(path) & {"scripts", "tests"}, path


def test_the_distribution_holds_exactly_the_six_packages():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix(".*") for name in include} == set(MAY_IMPORT)
    # A folder of modules without __init__.py would be left out of a wheel.
    for package in MAY_IMPORT:
        for folder in {path.parent for path in sources(package)}:
            assert (folder / "__init__.py").exists(), folder


PROBE = """
import importlib, json, sys
package, heavy, modules = sys.argv[1], sys.argv[2].split(), sys.argv[3:]
root = importlib.import_module(package)
unknown = [name for name in root.__all__ if not hasattr(root, name)]
loaded = {}
for name in [package, *modules]:
    importlib.import_module(name)
    for library in heavy:
        if library in sys.modules:
            loaded.setdefault(library, name)
print(json.dumps({"unknown": unknown, "loaded": loaded}))
"""


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_importing_is_quick_and_all_names_exist(package):
    # Every module counts, not only what the package itself imports: a function
    # which needs a heavy library imports it when called.
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sources(package)
        if path.name not in ("__init__.py", "__main__.py")
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, package, " ".join(sorted(HEAVY)), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["unknown"] == [], f"{package}.__all__ names what is not there"
    assert found["loaded"] == {}, "heavy libraries, by the module which loads them"
