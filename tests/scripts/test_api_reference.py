import importlib
import re
from pathlib import Path

import pytest

from tests.parsed import nothing_thrown_away

pytest.importorskip("griffe", reason="griffelib, of the extra dev, is not installed")

ROOT = Path(__file__).parents[2]
PACKAGES = ("align", "teacher", "fuse", "student", "plugins", "experiments")


@pytest.fixture(scope="module")
def pages(script):
    with nothing_thrown_away():
        return script.pages()


def test_the_pages_are_up_to_date(pages):
    folder = ROOT / "docs" / "api"
    assert {path.name for path in folder.iterdir()} == set(pages)
    for name, text in pages.items():
        written = (folder / name).read_text(encoding="utf-8")
        assert written == text, f"docs/api/{name} is not; run: make docs"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_page_has_every_public_name_and_each_of_them_once(package, pages):
    headings = re.findall(r"^### (\w+)$", pages[f"{package}.md"], re.M)
    assert set(importlib.import_module(package).__all__) <= set(headings)
    assert len(headings) == len(set(headings))
    assert not [name for name in headings if name.startswith("_")]


@pytest.mark.parametrize("package", PACKAGES)
def test_links_of_a_page_lead_to_one_heading_or_a_file(package, pages):
    text = pages[f"{package}.md"]
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert anchors.count(target[1:]) == 1, target
        else:
            file = (ROOT / "docs" / "api" / target.partition("#")[0]).resolve()
            assert file.is_file(), target


def test_an_entry_has_signature_arguments_result_errors_and_source(pages):
    (entry,) = re.findall(r"^### char_iou\n.*?(?=^#)", pages["align.md"], re.M | re.S)
    assert "char_iou(student_spans: Tensor, teacher_spans: Tensor) -> Tensor" in entry
    assert "- `student_spans`: (T_s, 2) int64 [start, end) in characters" in entry
    assert "- **returns** (T_s, T_t) float32 in [0, 1]" in entry
    assert "- **raises** `ValueError`: a span ends before it starts." in entry
    assert "- **source** Intersection over union" in entry


def test_a_class_has_what_its_constructor_takes_and_its_methods(pages):
    (entry,) = re.findall(r"^### Alignment\n.*?(?=^#)", pages["align.md"], re.M | re.S)
    assert "    rows: Tensor,\n" in entry
    assert "- `.rows: Tensor`: (N,) int64, ascending" in entry
    assert "- `.coverage(student_mask: Tensor) -> float`: " in entry


@pytest.mark.parametrize(
    ("source", "signature"),
    [
        ("def f(a, /, b=1, *, c): pass", "f(a, /, b=1, *, c)"),
        (
            "def f(a: int = 1, *b, c, **d) -> str: pass",
            "f(a: int = 1, *b, c, **d) -> str",
        ),
        ("class f:\n    def __init__(self, a): pass", "f(a)"),
        ("from typing import Protocol\nclass f(Protocol): pass", "class f(Protocol)"),
        ("f = dict[str, int]", "f = dict[str, int]"),
        ("f: int = 3", "f: int"),
    ],
)
def test_a_signature_stands_as_it_was_written(source, signature, script):
    import griffe

    module = griffe.visit("m", filepath=Path("m.py"), code=source)
    written = script.signature(module["f"], "f").replace(" = ", "=")
    assert written == signature.replace(" = ", "=")


def test_words_of_docstrings_become_markdown(script):
    line = script._line(":class:`~align.kv.KV` of ``x``,\n``a < b``, <eos>, x < y")
    assert line == "`align.kv.KV` of `x`, `a < b`, \\<eos>, x < y"
