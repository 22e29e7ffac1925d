"""Calls say what they hand over; functions and files are short enough to read."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.parsed import nodes_of

ROOT = Path(__file__).parents[1]
CODE = ("align", "teacher", "fuse", "student", "plugins", "experiments", "scripts")
POSITIONAL_FIELDS = 4
POSITIONAL = 5
FUNCTION_LINES = 100
FILE_LINES = 400

PRONOUNS = {"found", "own", "one", "told", "seen", "live"}
"""Say nothing of what a name holds; a local name is a noun of the domain."""
LONG_FILES = {
    "experiments/config/tree.py": (450, "the tree of settings, with every default"),
    "student/distiller.py": (540, "one training step from texts to loss"),
}
"""How many lines a file may have beyond the usual, and why."""
OTHERS = {
    "apply": "torch's autograd functions take their arguments by position",
    "visit": "what transformers hands to an attention function, in its order",
}


def files(*folders: str) -> list[Path]:
    return [file for name in folders for file in sorted((ROOT / name).rglob("*.py"))]


def place(path: Path, node: ast.stmt | ast.expr, name: str) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno} {name}"


def called(node: ast.expr) -> str:
    """The last part of what is called, or of a decorator."""
    if isinstance(node, ast.Call):
        return called(node.func)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def positional_fields(cls: ast.ClassDef) -> int:
    """Fields of a dataclass that can be given by position; 0 for other classes."""
    decorator = next((d for d in cls.decorator_list if called(d) == "dataclass"), None)
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
    if decorator is None or any(word.arg == "kw_only" for word in keywords):
        return 0
    count = 0
    for field in cls.body:
        if not isinstance(field, ast.AnnAssign):
            continue
        kind, value = ast.unparse(field.annotation), field.value
        if kind == "KW_ONLY":
            break
        options = value.keywords if isinstance(value, ast.Call) else []
        by_keyword = any(word.arg in ("kw_only", "init") for word in options)
        count += "ClassVar" not in kind and not by_keyword
    return count


def test_no_dataclass_takes_more_than_four_fields_by_position():
    positional = [
        place(path, cls, cls.name)
        for path in files(*CODE, "tests")
        for cls in nodes_of(path, ast.ClassDef)
        if positional_fields(cls) > POSITIONAL_FIELDS
    ]
    assert not positional, "make them kw_only=True"


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ("a: int\n b: int = 2\n c: ClassVar[int] = 3", 2),
        ("a: int\n _: KW_ONLY\n b: int = 2", 1),
        ("a: int\n b: int = field(default=2, kw_only=True)", 1),
    ],
)
def test_fields_are_counted_that_a_position_reaches(fields, count):
    def counted(decorator: str) -> int:
        (cls,) = ast.parse(f"{decorator}\nclass A:\n {fields}").body
        assert isinstance(cls, ast.ClassDef)
        return positional_fields(cls)

    assert counted("@dataclass(frozen=True)") == counted("@dataclass") == count
    assert counted("@dataclass(kw_only=True)") == 0


def test_no_call_to_our_code_has_six_positional_arguments():
    paths = files(*CODE, "tests")
    functions = [node for path in paths for node in nodes_of(path, ast.FunctionDef)]
    ours = {node.name for node in functions} | {"cls"}
    ours |= {node.name for path in paths for node in nodes_of(path, ast.ClassDef)}
    ours -= {node.name for node in functions if node.args.vararg} | set(OTHERS)
    crowded = [
        place(path, node, called(node))
        for path in paths
        for node in nodes_of(path, ast.Call)
        if sum(not isinstance(word, ast.Starred) for word in node.args) > POSITIONAL
        and called(node) in ours
    ]
    assert not crowded, "give them by keyword"


def test_functions_are_short():
    long = {
        node.name
        for path in files(*CODE)
        for node in nodes_of(path, ast.FunctionDef)
        if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    }
    assert not long


def test_files_are_short_but_for_those_named_here():
    lines = {
        path.relative_to(ROOT).as_posix(): len(
            path.read_text(encoding="utf-8").splitlines()
        )
        for path in files(*CODE)
    }
    long = {name: count for name, count in lines.items() if count > FILE_LINES}
    assert long.keys() == LONG_FILES.keys(), "split it; or it is short by now"
    assert not [name for name, count in long.items() if count > LONG_FILES[name][0]]


def names_bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that some nodes give to values."""
    for inner in nodes:
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        elif isinstance(inner, ast.arg):
            yield inner.arg


def names_in(path: Path) -> Iterator[ast.AST]:
    """A whole file's nodes that may bind a name."""
    yield from nodes_of(path, ast.Name)
    yield from nodes_of(path, ast.arg)


def test_local_names_are_nouns_of_the_domain():
    pronouns = [
        f"{place(path, node, node.name)}: {name}"
        for path in files(*CODE)
        if PRONOUNS.intersection(names_bound(names_in(path)))  # in few files: at once
        for node in nodes_of(path, ast.FunctionDef)
        for name in PRONOUNS.intersection(names_bound(ast.walk(node)))
    ]
    assert not pronouns, "say what they hold"


def test_names_are_seen_wherever_they_are_bound():
    code = (
        "def f(own):\n for told in own:\n  one = [seen for seen in told]\n  x.a = one"
    )
    assert set(names_bound(ast.walk(ast.parse(code)))) == {"own", "told", "one", "seen"}
