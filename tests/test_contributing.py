"""CONTRIBUTING's drawing says what the tables of imports say; its paths exist."""

import re
from pathlib import Path

import pytest

from tests.test_imports import MAY_IMPORT, ROOMS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

Edges = set[tuple[str, str]]


def drawn() -> tuple[dict[str, str], Edges]:
    """Rooms by what an arrow calls them, such as ``align/text``, and the arrows."""
    (picture,) = re.findall(r"^```mermaid\n(.*?)^```", TEXT, re.M | re.S)
    rooms: dict[str, str] = {}
    arrows: Edges = set()
    package = ""
    for line in picture.splitlines()[1:]:
        words = line.strip()
        if opened := re.match(r"subgraph (\w+)", words):
            package = opened[1]
        elif words == "end":
            package = ""
        else:
            for name, label in re.findall(r'(\w+)\["([^"]+)"\]', words):
                rooms[name] = f"{package}/{label}"
            words = re.sub(r'\["[^"]+"\]', "", words)
            sides = [re.split(r"\s*&\s*", side) for side in words.split(" --> ")]
            for name in (name for side in sides for name in side if package):
                rooms.setdefault(name, f"{package}/{name}")
            if len(sides) == 2:
                arrows |= {(a, b) for a in sides[0] for b in sides[1]}
    return rooms, arrows


def without_shortcuts(edges: Edges) -> Edges:
    """Edges beside which no longer way leads from one end to the other."""
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def below(node: str) -> set[str]:
        return {x for b in after.get(node, ()) for x in {b} | below(b)}

    return {
        (a, b) for a, b in edges if not any(b in below(other) for other in after[a])
    }


def test_shortcuts_are_what_a_longer_way_replaces():
    edges = {("c", "b"), ("b", "a"), ("c", "a"), ("c", "d")}
    assert without_shortcuts(edges) == edges - {("c", "a")}


def test_the_arrows_between_packages_are_those_of_the_table():
    _, arrows = drawn()
    table = {(a, b) for a, others in MAY_IMPORT.items() for b in others}
    between = {edge for edge in arrows if set(edge) <= set(MAY_IMPORT)}
    assert between == without_shortcuts(table)


def test_the_arrows_between_rooms_are_those_of_the_table():
    rooms, arrows = drawn()
    table = {
        (room, f"{room.split('/')[0]}/{other}")
        for room, others in ROOMS.items()
        for other in others
    }
    between = {(rooms[a], rooms[b]) for a, b in arrows if {a, b} <= set(rooms)}
    assert between == without_shortcuts(table)


def test_every_room_is_drawn():
    rooms, _ = drawn()
    without = {p for p in MAY_IMPORT if not any(r.startswith(f"{p}/") for r in ROOMS)}
    assert set(rooms.values()) == set(ROOMS) | {f"{p}/no rooms" for p in without}


@pytest.mark.parametrize("package", ["teacher", "fuse", "student"])
def test_a_package_may_import_what_its_row_names(package):
    row = re.search(rf"^\| `{package}` \| (.*?) \|", TEXT, re.M)
    assert set(re.findall(r"`(\w+)`", row[1])) == MAY_IMPORT[package]


def test_what_is_to_be_changed_lies_where_the_table_sends_one():
    table = TEXT[TEXT.index("## Where do I change") : TEXT.index("## Who may learn")]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        paths = re.findall(r"`([\w/]+(?:\.\w+|/))`", row)
        assert paths, row
        for path in paths:
            assert (ROOT / path).exists(), f"{path}, in the row {row}"


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("student/terms/key_value.py", ["BUILT_IN"]),
        ("student/output/temperature.py", ["TEMPERATURES"]),
        ("student/balance/built_in.py", ["BALANCERS"]),
        ("align/layer_map.py", ["STRATEGIES"]),
        ("align/calibration.py", ["METHODS"]),
    ],
)
def test_tables_that_one_is_sent_to_are_there(file, names):
    source = (ROOT / file).read_text(encoding="utf-8")
    for name in names:
        assert re.search(rf"^{name}\b", source, re.M), f"{file} has no {name}"
        assert f"`{name}`" in TEXT
