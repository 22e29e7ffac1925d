"""Who may import whom, and what importing must not do."""

import ast
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.arrows import (
    Arrow,
    arrows,
    circle,
    file_at,
    file_of,
    forget,
    imports_of,
    relative_imports,
)
from tests.fresh import answers, given
from tests.parsed import nodes_of

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
    "align/across": {"text", "tokens"},
    "align/bounds": set(),
    "align/depth": set(),
    "align/doors": set(),
    "align/foreign": {"support"},
    "align/pictures": {"foreign", "tokens", "support"},
    "align/products": {"support"},
    "align/schedules": {"doors", "support"},
    "align/support": set(),
    "align/text": {"bounds"},
    "align/tokens": {"support", "text"},
    "teacher/adapt": {"conversion", "loading", "packages"},
    "teacher/capture": {"loading"},
    "teacher/distant": {"capture", "loading", "making"},
    "teacher/hub": set(),
    "teacher/loading": {"hub"},
    "teacher/making": {"loading"},
    "teacher/served": {"store"},
    "teacher/sources": {"loading", "served", "store"},
    "teacher/store": set(),
    "teacher/conversion": {"loading", "packages"},
    "teacher/partly": set(),
    "teacher/packages": set(),
    "teacher/writing": set(),
    "teacher/zoo": set(),
    "fuse/beforehand": set(),
    "fuse/routers": {"beforehand"},
    "fuse/z": set(),
    "student/balance": set(),
    "student/bridges": set(),
    "student/curriculum": set(),
    "student/evaluators": set(),
    "student/loop": {"select"},
    "student/select": set(),
    "student/output": set(),
    "student/output/divergence": set(),
    "student/output/across": {"output/divergence"},
    "student/output/transport": {"output/divergence", "output/across"},
    "student/settings": set(),
    "student/step": {"balance", "bridges", "output", "select", "terms"},
    "student/terms": {"output"},
    "student/transforms": set(),
    "student/match": {"bridges", "output"},
    "student/match/layers": set(),
    "student/own": {"match", "output"},
    "plugins/contracts": set(),
    "plugins/contracts/models": set(),
    "plugins/contracts/space": set(),
    "plugins/guards": {"contracts"},
    "plugins/hooks": set(),
    "experiments/texts": set(),
    "experiments/config": {"texts"},
    "experiments/record": {"config"},
    "experiments/record/trackers": {"config"},
    "experiments/sources": {"config"},
    "experiments/choosing": {"config"},
    "experiments/assemble": {"choosing", "config", "record", "sources", "texts"},
    "experiments/assemble/selecting": set(),
    "experiments/assemble/idle": set(),
    "experiments/writing": {"config", "record"},
    "experiments/routing_room": {"assemble"},
    "experiments/teacher_pool": {"report", "routing_room"},
    "experiments/scoring": set(),
    "experiments/evaluators": {"config"},
    "experiments/measuring": {
        "assemble",
        "config",
        "evaluators",
        "record",
        "report",
        "sources",
    },
    "experiments/run": {
        "texts",
        "choosing",
        "evaluators",
        "config",
        "making",
        "record",
        "sources",
        "assemble",
        "writing",
        "routing_room",
        "scoring",
    },
    "experiments/making": {"config", "record", "assemble", "texts"},
    "experiments/adapt": {"config", "record", "assemble", "making", "run"},
    "experiments/extraction": {
        "texts",
        "choosing",
        "config",
        "making",
        "record",
        "sources",
        "assemble",
        "run",
    },
    "experiments/estimate": {
        "teacher_pool",
        "choosing",
        "config",
        "making",
        "record",
        "sources",
        "assemble",
        "run",
        "extraction",
        "routing_room",
        "writing",
    },
    "experiments/rehearsal": {
        "config",
        "record",
        "assemble",
        "run",
        "estimate",
    },
    "experiments/report": {
        "texts",
        "evaluators",
        "config",
        "record",
        "sources",
        "assemble",
        "run",
        "routing_room",
    },
    "experiments/report/layout": set(),
    "experiments/publishing": {"config", "record", "assemble", "report"},
    "experiments/report/evaluation": {"report/layout"},
    "experiments/run/identity": {"assemble", "config", "record"},
    "experiments/run/measures": set(),
    "experiments/run/peers": set(),
    "experiments/commands": {
        "teacher_pool",
        "texts",
        "measuring",
        "sweep",
        "evaluators",
        "adapt",
        "making",
        "config",
        "record",
        "sources",
        "assemble",
        "run",
        "extraction",
        "estimate",
        "rehearsal",
        "report",
        "publishing",
        "writing",
        "routing_room",
    },
    "experiments/bench": {
        "adapt",
        "config",
        "record",
        "sources",
        "assemble",
        "run",
        "extraction",
        "estimate",
        "report",
        "writing",
        "commands",
        "making",
    },
    "experiments/sweep": {
        "config",
        "evaluators",
        "record",
        "assemble",
        "run",
        "report",
    },
    "experiments/configs": set(),
    "experiments/recipes": set(),
    "experiments/phases": set(),
}
"""Which other folders of its package the files of a folder may import; also in
functions, and through any door: what counts is where a name is defined. A folder stands
for those in it, too. Files beside folders are free, where that makes no circle."""
WHOLE = {"experiments/bench", "experiments/commands"}
"""Folders whose own folders are not told apart."""
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
    return {module.split(".")[0] for _, module, _ in imports_of(path)}


def modules_imported(path: Path) -> set[str]:
    every = imports_of(path)
    return {f"{module}.{name}" if name else module for _, module, name in every}


def files_imported(path: Path, root: Path = ROOT) -> set[Path]:
    """Our own files among what a file imports, in functions and for types too.

    ``from package import name`` reads ``package/__init__.py``, a door whose own imports
    lead on to where the name is defined.
    """
    found = set()
    for name in modules_imported(path):
        module = root.joinpath(*name.split("."))
        for step in (module, module.parent):  # a module, or a name in one
            if file := file_at(step):
                found.add(file)
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


@cache
def room_of(path: Path, root: Path = ROOT) -> str:
    """The folder in which a file lies, such as ``align`` or ``align/text``."""
    folder = path.parent.relative_to(root).as_posix()
    return next((name for name in WHOLE if within(folder, {name})), folder)


def within(folder: str, others: Iterable[str]) -> bool:
    return any(folder == other or folder.startswith(f"{other}/") for other in others)


@cache
def allowed_in(room: str) -> frozenset[str]:
    """What a folder may import, by its line of :data:`ROOMS` and by those around it."""
    holding = [name for name in ROOMS if within(room, {name})]
    return frozenset(name for each in holding for name in ROOMS[each])


def shown(arrow: Arrow, root: Path = ROOT) -> str:
    source, target = (p.relative_to(root) for p in (arrow.source, arrow.target))
    return f"{source}:{arrow.line} imports {target}"


def forbidden_arrows(root: Path = ROOT) -> list[str]:
    """Imports between folders of one package that :data:`ROOMS` does not allow."""
    sentences: dict[str, None] = {}
    files = [path for package in MAY_IMPORT for path in sources(package, root)]
    for arrow in (arrow for path in files for arrow in arrows(path, root)):
        room, other = (room_of(path, root) for path in (arrow.source, arrow.target))
        package = room.split("/")[0]
        beside = within(room, {other}) or within(other, {room})
        if not within(other, {package}) or beside:
            continue
        allowed = allowed_in(room)
        if not within(other.removeprefix(f"{package}/"), allowed):
            sentences[
                f"{shown(arrow, root)}; {room} may import "
                f"{', '.join(sorted(allowed)) or 'no other folder'} (ROOMS)"
            ] = None
    return list(sentences)


def circle_of_rooms(folder: Path, root: Path = ROOT) -> list[str]:
    """Imports in a circle between a folder's entries, each with all that it holds.

    The folder's own ``__init__.py`` is its door, not one of them.
    """
    graph: dict[str, dict[str, Arrow]] = {}
    for path in sorted(folder.rglob("*.py")):
        room = path.relative_to(folder).parts[0]
        for arrow in arrows(path, root):
            if arrow.target.is_relative_to(folder):
                other = arrow.target.relative_to(folder).parts[0]
                if "__init__.py" not in (room, other) and room != other:
                    graph.setdefault(room, {})[other] = arrow
    return [shown(arrow, root) for arrow in circle(graph)]


@pytest.mark.parametrize("package", [*MAY_IMPORT, "scripts"])
def test_modules_are_imported_by_the_names_of_their_files(package):
    # by an earlier name they could be had, too, past all tables
    for path in sources(package):
        for line, module, _ in imports_of(path):
            ours = module.split(".")[0] in MAY_IMPORT
            where = f"{path.relative_to(ROOT)}:{line}"
            assert not ours or file_of(module, ROOT), (
                f"{where}: {module} lies elsewhere"
            )


def test_folders_inside_packages_follow_their_table():
    folders = {room_of(path) for p in MAY_IMPORT for path in sources(p)}
    assert folders - set(MAY_IMPORT) == set(ROOMS)
    arrows_back = forbidden_arrows()
    assert not arrows_back, "\n".join(arrows_back)


@pytest.mark.parametrize("folder", sorted({name.rpartition("/")[0] for name in ROOMS}))
def test_no_entries_of_a_folder_import_each_other_in_a_circle(folder):
    ring = circle_of_rooms(ROOT / folder)
    assert not ring, "\n".join(ring)


@pytest.mark.parametrize(
    ("file", "line", "defined"),
    [
        (
            "align/text/chat.py",
            "def late():\n    from align.tokens import TokenBatch",
            "align/tokens/batch.py",
        ),
        (
            "align/text/chat.py",
            "def late():\n    from align import TokenBatch",
            "align/tokens/batch.py",
        ),
        (
            "student/output/divergence/rows.py",
            "if TYPE_CHECKING:\n    from student.output import token_transport",
            "student/output/transport/token.py",
        ),
        (
            "experiments/record/lease.py",
            "import experiments.run.driver",
            "experiments/run/driver.py",
        ),
        (
            "experiments/record/lease.py",
            "from experiments.run import driver",
            "experiments/run/driver.py",
        ),
        (
            "student/output/new.py",
            "from student.terms.key_value import OBJECTIVES",
            "student/terms/key_value.py",
        ),
    ],
    ids=[
        "in a function, through a door",
        "in a function, through the package's door",
        "for a type, in a folder of a folder",
        "a whole module",
        "a module of a folder",
        "a new file",
    ],
)
def test_an_arrow_back_up_is_seen(file, line, defined, copied):
    with added(copied / file, line):
        lines = (copied / file).read_text().splitlines()
        at = lines.index(line.splitlines()[-1]) + 1
        (sentence,) = forbidden_arrows(copied)
    assert sentence.startswith(f"{file}:{at} imports {defined}; ")
    assert sentence.endswith(" (ROOMS)")


def test_a_circle_between_a_folder_and_a_file_beside_it_is_seen(tmp_path):
    files = {
        "__init__.py": "from house.up import BED",
        "hall.py": "def late():\n    from house import BED\nSHOES = 1",
        "up/__init__.py": "from house.up.attic import BED",
        "up/attic.py": "BED = 1",
        "up/stairs.py": "from house.hall import SHOES",
    }
    for name, source in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert sorted(circle_of_rooms(tmp_path / "house", tmp_path)) == [
        "house/hall.py:2 imports house/up/attic.py",
        "house/up/stairs.py:1 imports house/hall.py",
    ]
    (tmp_path / "house" / "hall.py").write_text("SHOES = 1\n")
    assert sorted(circle_of_rooms(tmp_path / "house", tmp_path)) == []


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All packages, in a place where a file may be :func:`added` to."""
    folder = tmp_path_factory.mktemp("packages")
    for package in MAY_IMPORT:
        shutil.copytree(
            ROOT / package,
            folder / package,
            ignore=lambda _, names: [n for n in names if n == "__pycache__"],
        )
    return folder


@contextmanager
def added(file: Path, line: str) -> Iterator[None]:
    """A file with one more line, for as long as the block lasts."""
    before = file.read_text(encoding="utf-8") if file.exists() else None
    file.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    others_see_it = before is None or file.name == "__init__.py"
    if others_see_it:
        forget()
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before, encoding="utf-8")
        if others_see_it:
            forget()


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
def test_a_circle_through_a_packages_door_is_seen(file, line, copied):
    with added(copied / file, line):
        assert file in circle_of(copied)


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
        relative = relative_imports(path)
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


def imported_at_once(path: Path) -> set[str]:
    """The libraries that importing a file imports: those that its own lines name,
    outside of functions and of what is for types only."""
    libraries, blocks = set(), [m.body for m in nodes_of(path, ast.Module)]
    while blocks:
        for node in blocks.pop():
            match node:
                case ast.Import(names=names):
                    libraries |= {alias.name.split(".")[0] for alias in names}
                case ast.ImportFrom(module=str(module)):
                    libraries.add(module.split(".")[0])
                case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise):
                    blocks.append(otherwise)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    pass
                case _:
                    blocks += [getattr(node, part, []) for part in BLOCKS]
    return libraries


BLOCKS = ("body", "orelse", "handlers", "finalbody")
"""Parts of a statement that hold statements."""


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_file_imports_a_heavy_library_before_it_is_asked(package):
    heavy = {
        str(path.relative_to(ROOT)): libraries
        for path in sources(package)
        if path.name != "__main__.py" and (libraries := imported_at_once(path) & HEAVY)
    }
    assert heavy == {}


PROBE = """
import importlib, sys

def answer(value):
    package, heavy, modules = value
    root = importlib.import_module(package)
    unknown = [name for name in root.__all__ if not hasattr(root, name)]
    loaded = {}
    for name in [package, *modules]:
        importlib.import_module(name)
        for library in heavy:
            if library in sys.modules:
                loaded.setdefault(library, name)
    return {"unknown": unknown, "loaded": loaded}
"""


@pytest.fixture(scope="module")
def probed():
    """What importing all modules of a package brings, by package."""
    values = []
    for package in MAY_IMPORT:
        # Every module counts, not only what the package itself imports: a function
        # which needs a heavy library imports it when called.
        modules = [
            ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for path in sources(package)
            if path.name not in ("__init__.py", "__main__.py")
        ]
        values.append((package, sorted(HEAVY), modules))
    return dict(zip(MAY_IMPORT, answers(PROBE, values), strict=True))


@pytest.mark.slow  # a process without anything of ours imports torch first
@pytest.mark.parametrize("package", MAY_IMPORT)
def test_importing_is_quick_and_all_names_exist(probed, package):
    found = given(probed[package])
    assert found["unknown"] == [], f"{package}.__all__ names what is not there"
    assert found["loaded"] == {}, "heavy libraries, by the module which loads them"
