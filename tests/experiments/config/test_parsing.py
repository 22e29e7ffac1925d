from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from experiments.config.parsing import (
    ConfigError,
    Typed,
    build,
    leaf,
    load_mapping,
    load_yaml,
    merge,
    parse_override,
    plain,
)
from experiments.config.schema import Partial, nearest_name, valid_names

pytestmark = pytest.mark.edges


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    mode: Literal["a", "b"] = "a"
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Named:
    model: str
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Tree:
    inner: Inner = field(default_factory=Inner)
    named: dict[str, Named] = field(default_factory=dict)
    part: dict[str, Annotated[dict[str, Any], Partial(Inner)]] = field(
        default_factory=dict
    )
    steps: int = 3
    words: list[str] = field(default_factory=list)


def test_build_gives_nested_dataclasses_with_the_fields_types():
    tree = build(Tree, {"inner": {"rate": 1}, "named": {"x": {"model": "m"}}})
    assert tree.inner == Inner(rate=1.0) and isinstance(tree.inner.rate, float)
    assert tree.named == {"x": Named(model="m")}


def test_partial_sections_stay_mappings_and_are_still_checked():
    assert build(Tree, {"part": {"p": {"rate": 2}}}).part == {"p": {"rate": 2.0}}
    with pytest.raises(ConfigError, match=r"part\.p\.mode is 'c'; give one of 'a'"):
        build(Tree, {"part": {"p": {"mode": "c"}}})


def test_an_empty_yaml_section_means_defaults():
    assert build(Tree, {"inner": None}) == Tree()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"inner": {"rat": 1}}, r"'inner\.rat'; did you mean 'inner\.rate'\?"),
        ({"rate": 1}, r"'rate'; did you mean 'inner\.rate'\?"),
        ({"named": {"x": {"modle": "m"}}}, r"did you mean 'named\.x\.model'\?"),
        ({"part": {"p": {"rat": 1}}}, r"did you mean 'part\.p\.rate'\?"),
        ({"qqqq": 1}, r"'qqqq'\. Valid in the top level: inner, named, part, steps"),
        ({"steps": "many"}, r"steps is 'many'; give an integer"),
        ({"steps": True}, r"steps is True; give an integer"),
        ({"steps": None}, r"steps is null; give an integer"),
        (
            {"words": "a/b.txt"},
            r"give a list, each entry a text, such as \[a/b\.txt\]$",
        ),
        (
            {"words": "one: two"},
            r"words is 'one: two'; give a list, each entry a text$",
        ),
        ({"words": [1]}, r"words\[0\] is 1; give a text"),
        ({"inner": 3}, r"inner is 3; give a section with keys rate, mode, name"),
        ({"named": [1]}, r"named is \[1\]; give a mapping from names"),
        ({"named": {"x": {}}}, r"named\.x\.model is missing; give a text"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data, message):
    with pytest.raises(ConfigError, match=message):
        build(Tree, data)


def test_typed_text_becomes_what_the_field_is():
    assert leaf(int, Typed("5"), "x") == 5
    assert leaf(str, Typed("5"), "x") == "5"
    assert leaf(float, Typed("1e-4"), "x") == 1e-4
    assert leaf(str | None, Typed("null"), "x") is None
    assert leaf(str | None, Typed("7"), "x") == "7"
    with pytest.raises(ConfigError, match="x is 'a'; give a list"):
        leaf(list[str], Typed("a"), "x")


def test_an_override_nests_and_keeps_equal_signs_in_its_value():
    assert parse_override("a.b=c=d") == {"a": {"b": Typed("c=d")}}
    assert parse_override("a=[1, 2]") == {"a": [1, 2]}


@pytest.mark.parametrize("item", ["a", "=1", "a..b=1", ".a=1"])
def test_a_malformed_override_shows_the_form(item):
    with pytest.raises(ConfigError, match=r"section\.key=value; for example"):
        parse_override(item)


def test_merge_joins_mappings_and_replaces_the_rest():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}}) == {"a": {"x": 1, "y": [3]}, "b": 1}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_an_empty_mapping_takes_the_place_of_a_full_one():
    base = {"loss": {"terms": {"states": {"use": "match"}}, "lambda_k": 2}}
    expected = {"loss": {"terms": {}, "lambda_k": 2}}
    assert merge(base, parse_override("loss.terms={}")) == expected


def test_nearest_name_prefers_the_same_section():
    names = ["left.size", "right.size"]
    assert nearest_name("right.siz", names) == "right.size"
    assert nearest_name("zzz", names) is None


def test_valid_names_cover_every_depth():
    assert {"inner.rate", "named.<name>.model", "part.<name>.mode"} <= set(
        valid_names(Tree)
    )


def test_plain_turns_a_tree_into_yaml_values():
    tree = build(Tree, {"named": {"x": {"model": "m"}}, "words": ["w"]})
    assert build(Tree, plain(tree)) == tree
    assert plain((1, Inner())) == [1, {"rate": 0.1, "mode": "a", "name": None}]


def test_yaml_errors_name_file_and_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("a: 1\nb: [1,\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml line 3 column 1"):
        load_mapping(path)
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 3"):
        load_mapping(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds a list; give a mapping"):
        load_mapping(path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_mapping(tmp_path / "none.yaml")
    path.write_text("")
    assert load_mapping(path) == {}


def test_yaml_reads_exponents_without_a_point_as_numbers():
    assert load_yaml("a: 1e-4", "here") == {"a": 1e-4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "here: 'a' stands twice, in lines 1 and 3"),
        ("a:\n  x: 1\n  y: 2\n  x: 3\n", "'a.x' stands twice, in lines 2 and 4"),
        ("a: {x: 1, x: 1}", "'a.x' stands twice, in line 1 at columns 5 and 11"),
        ("a: [{x: 1}, {x: 1, x: 2}]", r"'a\[1\].x' stands twice"),
        ('a: {1: x, "1": y}', "'a.1' stands twice"),  # names are texts all the same
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_places(text, message):
    with pytest.raises(ConfigError, match=message):
        load_yaml(text, "here")


def test_anchors_and_merges_are_no_repetition():
    text = "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n"
    assert load_yaml(text, "here")["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    "item", ["loss.terms.m={use:match, weight: 1}", "phase={dual: {loss: {a:1}}}"]
)
def test_a_colon_without_a_blank_is_pointed_at(item):
    with pytest.raises(ConfigError, match=r"behind the colon: '(use: match|a: 1)'"):
        parse_override(item)


def test_a_colon_inside_of_a_text_is_none():
    item = "teachers={a: {model: 'zoo:real/student'}, b: {model: pkg:smollm2}}"
    nested = parse_override(item)["teachers"]
    assert nested["b"]["model"] in ("pkg:smollm2", Typed("pkg:smollm2"))


def test_an_override_sets_one_entry_of_a_free_mapping():
    hints = (dict[str, float], dict[str, float] | None)
    for hint in hints:
        assert leaf(hint, {"a": Typed("0.5"), "b": 2}, "x") == {"a": 0.5, "b": 2.0}
    lists = dict[str, list[int]]
    assert leaf(lists, {"a": [1, 2]}, "x") == {"a": [1, 2]}
    with pytest.raises(ConfigError, match=r"^x\.a is 'much'; give a number$"):
        leaf(dict[str, float], {"a": Typed("much")}, "x")


def test_what_was_typed_is_shown_as_it_was_typed():
    with pytest.raises(ConfigError, match=r"x is \{'a': \{'b': '1'\}\}; give an int"):
        leaf(int, {"a": {"b": Typed("1")}}, "x")
