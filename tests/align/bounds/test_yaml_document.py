import random
from pathlib import Path

import pytest

from align.bounds import yaml_document
from align.bounds.yaml_document import DEEPEST, MOST_CHARS, read_yaml
from align.errors import InputError

ROOT = Path(__file__).parents[3]
PIECES = (
    *("a", "b: 1", "- x", ": ", "? ", "{", "}", "[", "]", ", ", '"', "'", "&a ", "*a"),
    *("<<: *a", "!", "!!str ", ">\n ", "|\n", "#c", "\t", "1e-4", "010", "~", "null"),
    *("on", "---\n", "...\n", "%YAML 1.2\n", "\ufeff", "\x85", "\u2028", "\r\n", "@"),
    *("`", "é", "深", "0x1F", ".5", "-", "?x", ":x", "x:", "a:b", "{a:1}", "''", " "),
    *("\n", "\n  ", "\n- ", '"\\u00e9"', "  k: [1, {b: 2}]\n", "- {c: d}\n"),
)


def laughs(levels: int) -> str:
    rows = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    for level in range(1, levels):
        again = ", ".join([f"*a{level - 1}"] * 10)
        rows.append(f"a{level}: &a{level} [{again}]")
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (laughs(9), "line 6 column 10 comes to more than 200,000 values"),
        ("a: &a [1, *a]", "line 1 column 11 'a' stands within itself"),
        ("[" * 9000, "line 1 column 65 lies more than 64 mappings and lists deep"),
        ("- " * 9000, "line 1 column 129 lies more than 64 mappings"),
        (f"a:\n  b: {'9' * 5000}", "line 2 column 6 is a number of too many digits"),
        ("x" * (MOST_CHARS + 1), "has 4,194,305 characters, and a YAML document may"),
        ("a: !!binary aGk=", "line 1 column 4 is not valid YAML: could not determine"),
        ("!!python/object/apply:os.abort []", "line 1 column 1 is not valid YAML"),
        ("a: \x00", "unacceptable character #x0000"),
        ("a: [1, 2", "line 1 column 9 is not valid YAML"),
    ],
    ids=range(10),
)
def test_what_is_too_much_is_refused_in_one_line_with_its_place(text, refusal):
    with pytest.raises(ValueError) as refused:
        read_yaml(text, "my.yaml")
    message = str(refused.value)
    assert message.startswith("my.yaml") and refusal in message
    assert "\n" not in message and len(message) < 250


def test_what_is_just_not_too_much_is_read():
    assert read_yaml(laughs(4), "x")["a3"][9][9][9][9] == "ha"
    deep = read_yaml("[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1), "x")
    for _ in range(DEEPEST - 1):
        (deep,) = deep
    assert deep == 1


def test_numbers_are_those_of_yaml_1_2():
    text = "[010, 1:30, -0, +5, 1_000, 0x1F, 1e3, 2026-01-02]"
    expected = ["010", "1:30", 0, 5, 1000, 31, 1000.0, "2026-01-02"]
    assert read_yaml(text, "x") == expected


def test_a_key_is_a_text_whatever_it_looks_like():
    assert read_yaml("{on: 1, 1: 2, true: 3, null: 4}", "x") == {
        "on": 1,
        "1": 2,
        "true": 3,
        "null": 4,
    }
    merged = read_yaml("m: &m {a: 1}\nn: {<<: *m, b: 2}", "x")
    assert merged["n"] == {"a": 1, "b": 2}


@pytest.mark.parametrize("text", ["[" * 400_000, "- " * 200_000, "{a: " * 200_000])
def test_what_is_deep_enough_to_end_a_process_is_refused(text):
    with pytest.raises(InputError, match=r"lies more than 64 mappings and lists deep"):
        read_yaml(text, "x")


def test_half_a_surrogate_pair_is_refused_by_name():
    with pytest.raises(InputError, match="x is not valid YAML"):
        read_yaml("a: \ud800", "x")


def test_what_libyaml_reads_quickly_is_what_pyyaml_reads(monkeypatch):
    """Fails where a text that the two read apart is given to libyaml."""
    draw = random.Random(0)
    every = [p.read_text() for p in (ROOT / "experiments").rglob("*.yaml")]
    every += ["".join(draw.choices(PIECES, k=draw.randint(1, 8))) for _ in range(250)]

    def read():
        return [repr(answer(text)) for text in every]

    quickly = read()
    monkeypatch.setattr(yaml_document, "_quick_node", lambda text: None)
    assert quickly == read()
    assert sum("InputError" not in text for text in quickly) > 60


def answer(text):
    try:
        return read_yaml(text, "x")
    except ValueError as error:
        return error
