"""The evidence page is a plan that can be carried out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from align.errors import InputError
from experiments.bench.evidence.__main__ import PAGE
from experiments.bench.evidence.page import Command, chosen, read_page
from experiments.bench.quality.options import parser

MADE_UP = """# Evidence

```bash
mtkd doctor
```

## First

```bash
mtkd train a.yaml 'x={b: 1}'   # what for
# nothing
python -m experiments.bench.quality --arms ce \\
  --texts x=mine/x.txt y=y.txt --seeds 0
python -m experiments.bench.quality --arms ce --texts 64
```

```yaml
# a.yaml
student: {}
```

## Second

No commands.

## Third, of two

```bash
mtkd models fetch smollm2
pip install trl
mtkd train a.yaml 'x={b: 1}'
mtkd estimate runs/*/config.yaml
```
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(MADE_UP, encoding="utf-8")
    return path


def test_sections_that_measure_with_their_commands_and_configs(page):
    sections, files = read_page(page)

    assert [section.title for section in sections] == ["First", "Third, of two"]
    assert sections[0].commands[0].words == ["mtkd", "train", "a.yaml", "x={b: 1}"]
    assert len(sections[0].commands) == 3
    assert files == {"a.yaml": "# a.yaml\nstudent: {}\n"}


def test_what_a_command_wants_and_takes(page):
    (first, third), _ = read_page(page)

    train, texts, counted = first.commands
    assert texts.wanted_files == ["mine/x.txt", "y.txt"]
    assert (train.wanted_files, counted.wanted_files) == ([], [])
    takes_budget = [command.resumes_by_budget for command in first.commands]
    assert takes_budget == [False, True, True]
    assert [c.fetches for c in third.commands] == [True, True, False, False]


def test_a_command_is_started_by_this_interpreter(page, tmp_path):
    (first, third), _ = read_page(page)
    for run in ("a", "b"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "config.yaml").touch()

    mtkd = [sys.executable, "-m", "experiments.cli"]
    assert first.commands[0].argv(tmp_path) == [*mtkd, "train", "a.yaml", "x={b: 1}"]
    fetch, _, _, estimate = third.commands
    assert fetch.argv(tmp_path)[-3:] == ["fetch", "smollm2", "--yes"]
    configs = ["runs/a/config.yaml", "runs/b/config.yaml"]
    assert estimate.argv(tmp_path) == [*mtkd, "estimate", *configs]


def test_no_other_program_is_started(tmp_path):
    with pytest.raises(InputError, match="starts 'rm'; a command of the page begins"):
        Command("rm -r x").argv(tmp_path)


def test_sections_are_chosen_by_words_of_their_titles(page):
    sections, _ = read_page(page)

    assert chosen(sections, []) == sections
    assert chosen(sections, ["of TWO"]) == sections[1:]
    with pytest.raises(InputError, match="no section has 'fourth' in its title:\n  Fi"):
        chosen(sections, ["first", "fourth"])


def test_commands_of_the_page_can_be_started():
    sections, files = read_page(PAGE)
    commands = [command for section in sections for command in section.commands]
    assert len(commands) > 40
    for command in commands:
        words = command.argv(Path())
        if command.resumes_by_budget:
            parser().parse_args(words[3:])
        elif words[1] == "-m":
            assert importlib.util.find_spec(words[2]), command.text
        configs = [word for word in words[3:] if word.endswith(".yaml")]
        assert all("/" in name or name in files for name in configs), command.text


def test_runs_of_other_settings_have_other_names():
    """A run of a name goes on with its settings, and refuses others."""
    sections, _ = read_page(PAGE)
    names: dict[tuple[str, str], str] = {}
    for section in sections:
        for command in section.commands:
            if command.words[:2] != ["mtkd", "train"]:
                continue
            config, *settings = command.words[2:]
            given = dict(word.split("=", 1) for word in settings)
            run = (config, given.get("run.name", ""))
            assert names.setdefault(run, command.text) == command.text
