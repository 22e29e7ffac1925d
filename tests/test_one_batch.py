"""docs/one_batch.md tells what the sources say."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.test_imports import MAY_IMPORT

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "one_batch.md").read_text(encoding="utf-8")


class Call(NamedTuple):
    """A row of the page, with the function whose table it stands in."""

    caller: str
    caller_file: str
    callee: str
    file: str
    written: str


def calls() -> list[Call]:
    rows, caller = [], ("", "")
    for line in PAGE.splitlines():
        if heading := re.match(r"\*\*`([\w.]+)`\*\* in `([\w/.]+)`", line):
            caller = (heading[1], heading[2])
        if row := re.match(r"\| `([\w.]+)` \| `([\w/.]+)` \| `(.+?)` \|", line):
            rows.append(Call(*caller, *row.groups()))
    return rows


CALLS = calls()


@cache
def sources_of(file: str) -> dict[str, str]:
    """Functions of a file with their source, methods as ``Class.method``."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines, out = text.splitlines(keepends=True), {}
    for node in ast.parse(text).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for each in inside:
            if isinstance(each, ast.FunctionDef):
                source = "".join(lines[each.lineno - 1 : each.end_lineno])
                out[prefix + each.name] = source
    return out


@pytest.mark.parametrize("call", CALLS, ids=lambda c: f"{c.caller} > {c.callee}")
def test_a_call_is_written_as_the_page_says_and_leads_to_a_function_there(call):
    functions = sources_of(call.caller_file)
    assert call.caller in functions, f"{call.caller_file} has no {call.caller}"
    assert call.written in functions[call.caller]
    assert call.callee in sources_of(call.file), f"{call.file} has no {call.callee}"


def test_calls_stand_in_the_order_in_which_they_are_written():
    for caller, file in dict.fromkeys((c.caller, c.caller_file) for c in CALLS):
        source = sources_of(file)[caller]
        written = [c.written for c in CALLS if c.caller == caller]
        places = [source.index(text) for text in written]
        assert places == sorted(places), f"{caller}: {written}"


def test_the_way_has_no_gap():
    """Each function with a table is called in another, or by what the page names."""
    called = {call.callee for call in CALLS}
    named = set(re.findall(r"`([\w.]+)`", PAGE))
    for caller in {call.caller for call in CALLS} - {"run_stage"}:
        assert caller in called or caller in named
    assert len(CALLS) > 40  # the page is read at all


def test_methods_that_stand_in_sentences_exist_too():
    sentences = "\n".join(x for x in PAGE.splitlines() if not x.startswith("| "))
    named = set(re.findall(r"`(_?[A-Z]\w+\.\w+)`", sentences))
    assert {"Outcome.losses", "Bridge.fuse_for_injection"} <= named
    classes = tuple(f"class {name.partition('.')[0]}" for name in named)
    files = [
        path.relative_to(ROOT).as_posix()
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("*.py")
        if any(line in path.read_text(encoding="utf-8") for line in classes)
    ]
    known = {name for file in files for name in sources_of(file)}
    assert named - known == set()


def test_the_terms_of_the_page_are_on_in_the_phase():
    from student.config import LossConfig
    from student.terms.key_value import term_weights

    sentence = re.search(r"In `dual` these are (.*?) of\n?", PAGE, re.S)
    named = re.findall(r"`(\w+)`", sentence[1])
    on = [name for name, weight in term_weights(LossConfig()).items() if weight > 0]
    assert sorted(named) == sorted(on)
