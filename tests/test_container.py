"""The container file is well formed, and what it copies is there and all of it."""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
KNOWN = set(
    ["ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"]
)


def instructions():
    """Instructions with their words; continued lines joined, comments left out."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    rows = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, rest in rows]


def test_every_line_is_an_instruction_and_the_first_are_the_base():
    words = [word for word, _ in instructions()]
    assert set(words) <= KNOWN and words[:2] == ["ARG", "FROM"]
    assert words.count("ENTRYPOINT") == words.count("CMD") == 1
    for word, rest in instructions():
        if word in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(part, str) for part in json.loads(rest))


def test_what_is_copied_is_there_and_holds_all_packages():
    copied = {
        name
        for word, rest in instructions()
        if word == "COPY"
        for name in rest.split()[:-1]
    }
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name for name in packages if "*" not in name} <= copied
    let = (ROOT / ".dockerignore").read_text().splitlines()
    assert {row.removeprefix("!") for row in let if row.startswith("!")} == copied


def test_the_base_has_a_python_that_the_package_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = dict(instructions())["ARG"]
    minor = int(re.search(r"python:3\.(\d+)", base)[1])
    assert minor >= int(re.search(r">=3\.(\d+)", project["requires-python"])[1])
    named = [r for w, r in instructions() if w == "RUN" and "pip install" in r]
    extras = re.search(r"'\.\[(.*)\]'", named[0])[1].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()
