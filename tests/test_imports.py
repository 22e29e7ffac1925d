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
ROOMS: dict[str, set[str]] = {
    "align/pictures": {"tokens"},
    "align/support": set(),
    "align/text": set(),
    "align/tokens": {"support", "text"},
    "teacher/capture": {"loading"},
    "teacher/loading": set(),
    "teacher/store": set(),
    "teacher/zoo": set(),
    "student/bridges": set(),
    "student/loop": set(),
    "student/output": set(),
    "student/terms": {"output"},
    "plugins/contracts": set(),
    "plugins/guards": {"contracts"},
    "experiments/config": set(),
    "experiments/record": {"config"},
    "experiments/assemble": {"config", "record"},
    "experiments/run": {"config", "record", "assemble"},
    "experiments/extraction": {"config", "record", "assemble", "run"},
    "experiments/estimate": {"config", "record", "assemble", "run", "extraction"},
    "experiments/report": {"config", "record", "assemble", "run"},
    "experiments/commands": {
        "config",
        "record",
        "assemble",
        "run",
        "extraction",
        "estimate",
        "report",
    },
    "experiments/bench": {
        "config",
        "record",
        "assemble",
        "run",
        "extraction",
        "estimate",
        "report",
        "commands",
    },
    "experiments/configs": set(),
    "experiments/phases": set(),
}
"""Which other folders of its package the files of a folder may import; also in
functions, and through a package's door. Files beside the folders are free."""
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


def room_of(path: Path, root: Path = ROOT) -> str:
    """The folder inside a package in which a file lies, or the file beside folders."""
    return "/".join(path.relative_to(root).parts[:2])


def forbidden_arrows(root: Path = ROOT) -> list[str]:
    """Imports between folders of one package that :data:`ROOMS` does not allow."""
    arrows = []
    for package in MAY_IMPORT:
        for path in sources(package, root):
            room = room_of(path, root)
            if path.parent == root / package:
                continue
            allowed = ROOMS[room]
            for target in files_imported(path, root):
                other = room_of(target, root)
                inside = target.parent != root / package and other != room
                if not (inside and other.startswith(f"{package}/")):
                    continue
                if other.removeprefix(f"{package}/") not in allowed:
                    arrows.append(
                        f"{path.relative_to(root)} imports {target.relative_to(root)}; "
                        f"{room} may import {sorted(allowed) or 'no other folder'}"
                    )
    return arrows


def test_folders_inside_packages_follow_their_table():
    folders = {
        room_of(path)
        for package in MAY_IMPORT
        for path in sources(package)
        if path.parent != ROOT / package
    }
    assert folders == set(ROOMS)
    assert forbidden_arrows() == []


def test_no_rooms_import_each_other_in_a_circle():
    """A folder counts as one, so that no arrow runs back up between folders."""
    graph: dict[str, set[str]] = {}
    for package in MAY_IMPORT:
        for path in sources(package):
            targets = {
                room_of(target)
                for target in files_imported(path)
                # A package's own door leads everywhere in it.
                if target != ROOT / room_of(target).split("/")[0] / "__init__.py"
            }
            graph.setdefault(room_of(path), set()).update(targets - {room_of(path)})
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("align/text/chat.py", "def late():\n    from align.tokens import TokenBatch"),
        ("experiments/record/lease.py", "import experiments.run.driver"),
        ("student/output/rows.py", "from student.terms import OBJECTIVES"),
    ],
    ids=["in a function, through a door", "a whole module", "a new file"],
)
def test_an_arrow_back_up_is_seen(file, line, tmp_path):
    copy_packages(tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    assert any(
        arrow.startswith(f"{file} imports") for arrow in forbidden_arrows(tmp_path)
    )


def copy_packages(folder: Path) -> None:
    for package in MAY_IMPORT:
        shutil.copytree(
            ROOT / package,
            folder / package,
            ignore=lambda _, names: [n for n in names if n == "__pycache__"],
        )


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
    copy_packages(tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    assert file in circle_of(tmp_path)


def test_the_maths_of_outputs_knows_no_settings_and_no_steps():
    for path in sorted((ROOT / "student" / "output").rglob("*.py")):
        for name in modules_imported(path):
            maths = name.startswith("student.output.")
            assert maths or not name.startswith("student"), f"{path} imports {name}"


def test_no_folder_holds_more_than_sixteen_files():
    for package in MAY_IMPORT:
        for folder in {path.parent for path in sources(package)}:
            files = sorted(path.name for path in folder.glob("*.py"))
            assert len(files) <= 16, f"{folder}: {len(files)} files; make a room"


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
    exclude = settings["tool"]["setuptools"]["packages"]["find"]["exclude"]
    assert exclude == ["experiments.bench", "experiments.bench.*"]
    for package in MAY_IMPORT:
        for path in sources(package):
            if "bench" not in path.parts:
                assert not any(
                    name.startswith("experiments.bench")
                    for name in modules_imported(path)
                ), path
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
