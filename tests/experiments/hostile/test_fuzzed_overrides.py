"""300 settings that nobody should have typed, given to the config and to the command.

pytest -s shows the table.
"""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from experiments.cli import main
from experiments.config.schema import hints_of, named_section, section_of
from experiments.config.tree import Config, config_text, load_config
from tests.experiments.hostile.outcomes import (
    ACCEPTED,
    CLEAR,
    LONGEST,
    NAMELESS,
    Table,
    outcome_of,
)
from tests.experiments.small_runs import small_config

VALUES = {
    "wrong types": [
        "true",
        "null",
        "[]",
        "{}",
        "[1, x]",
        "{a: 1}",
        "text",
        "3.5",
        "-1",
    ],
    "extremes": [
        "0",
        "-0",
        "-0.0",
        "1e999",
        ".inf",
        ".nan",
        "1e308",
        "9" * 30,
        "9" * 5000,
        "0x" + "f" * 3000,
        "1e-400",
        str(2**63),
        str(2**63 - 1),
    ],
    "unicode": [
        "深度",
        "\u202eabc",
        "\ud800",
        "e\u0301",
        "\U0001f600",
        "\x1b[31m",
        "\ufeff1",
    ],
    "YAML": [
        "[",
        "{a: b: c}",
        "&a [*a]",
        "*x",
        "!!python/name:os.system",
        "|",
        "? a",
        "'",
        "a: 1\na: 2",
        "--- 1",
        "%TAG",
        "@",
        "`",
        "<<: *a",
        "- - -",
        "#",
        "",
    ],
    "long": [
        "x" * 100_000,
        "[" * 5_000,
        "{a: " * 300,
        "[" + "1, " * 1_000 + "1]",
        "../" * 2_000,
        "a." * 500,
    ],
    "places": [
        "/dev/zero",
        "/proc/self/mem",
        "../../etc/passwd",
        "~",
        "$HOME",
        "a\tb",
        "/",
        ".",
        "..",
        "con:aux",
        "-rf",
        "--",
        "%s%n",
        "{0}",
        "http://[::1",
    ],
}
ODD_KEYS = [
    "",
    ".",
    "a.b.c",
    "train",
    "train.",
    "train.steps.x",
    "__class__",
    "loss.terms",
    "phase.dual.train.steps",
    "teachers.x.y",
    "深度.x",
    "x" * 5_000,
    ".".join("a" * 100),
    "loss.extra.a.b",
    "run.name.x",
    "on",
    "null.x",
    "phase.all",
    "fuse.weights.0",
    "train[0]",
]


def keys(cls: Any = Config, prefix: str = "") -> Iterator[str]:
    for key, hint in hints_of(cls).items():
        named = named_section(hint)
        section, partial = section_of(hint if named is None else named)
        name = f"{prefix}{key}" if named is None else f"{prefix}{key}.gpt2-prose"
        if section is not None and not partial:
            yield from keys(section, f"{name}.")
        elif section is None:
            yield f"{prefix}{key}"


def overrides(draw: random.Random, count: int) -> Iterator[tuple[str, str, str]]:
    """Class, key and value."""
    known = list(keys())
    for number in range(count):
        kind = draw.choice(list(VALUES))
        value = draw.choice(VALUES[kind])
        if number % 6 == 5:
            yield "odd keys", draw.choice(ODD_KEYS), value
        else:
            yield kind, draw.choice(known), value


def places(key: str) -> tuple[str, ...]:
    """How an error may call what it is about: the key, its section, or it cut short."""
    return tuple(
        {key, key[:100], key.rpartition(".")[2][:100], key.partition(".")[0]} - {""}
    ) or ("override",)


def settled(item: str) -> bool:
    """Whether what a config takes is the same once it is written and read again."""
    config = load_config({"student": {"model": "m"}}, [item])
    text = config_text(config)
    again = load_config(yaml.safe_load(text))
    return again == config and config_text(again) == text


@pytest.mark.slow
def test_every_setting_is_taken_as_it_is_written_or_refused_by_name():
    shown = Table()
    for kind, key, value in overrides(random.Random(0), 300):
        item = f"{key}={value}"
        outcome, detail = outcome_of(lambda item=item: settled(item), places(key))
        shown.note(kind, outcome, f"{item[:80]!r}: {detail}")
    print(f"\n{shown}")
    assert sum(sum(row.values()) for row in shown.rows.values()) == 300
    assert not shown.wrong, "\n".join(shown.wrong)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_setting_that_a_config_takes_passes_the_check_or_is_refused_by_name(
    tiny_zoo, tmp_path, capsys
):
    """``mtkd train --check``, which also looks up names and reads the texts."""
    shown = Table()
    config = str(small_config(tmp_path, tiny_zoo).rename(tmp_path / "my.yaml"))
    for kind, key, value in overrides(random.Random(1), 300):
        item = f"{key}={value}"
        capsys.readouterr()
        try:
            code = main(["train", "--check", config, item])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = [row for row in capsys.readouterr().err.splitlines() if "mtkd: " in row]
        message = said[-1] if said else ""
        named = any(place in message for place in places(key))
        if code == 0:
            outcome = ACCEPTED
        elif code == 2 and len(said) == 1 and named and len(message) < LONGEST:
            outcome = CLEAR
        else:
            outcome = NAMELESS
        shown.note(kind, outcome, f"{item[:80]!r}: {code} {message[:300]!r}")
    print(f"\n{shown}")
    assert sum(sum(row.values()) for row in shown.rows.values()) == 300
    assert not shown.wrong, "\n".join(shown.wrong)
