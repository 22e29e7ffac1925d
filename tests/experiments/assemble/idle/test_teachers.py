"""A teacher that nobody asks is not loaded in silence."""

import pytest

from experiments.assemble.idle.teachers import idle_teachers
from experiments.cli import main
from experiments.config.tree import load_config

TEACHERS = {"a": "zoo:gpt2-prose", "b": "zoo:qwen-code", "c": "zoo:neox-mixed"}


def test_a_teacher_that_no_phase_takes_is_named():
    config = load_config({"teachers": TEACHERS})
    assert idle_teachers(config, {"a", "b", "c"}) == []
    (sentence,) = idle_teachers(config, {"a", "b"})
    assert sentence.startswith("teacher 'c' teaches nothing: no phase takes it; name")


@pytest.mark.parametrize(
    "word",
    [
        "data.written.by=c",
        "student={init: fresh, tokenizer: c}",
        "data.curriculum={use: competence, difficulty: {use: teacher, name: c}}",
    ],
)
def test_a_teacher_with_something_else_to_do_is_not(word):
    config = load_config({"teachers": TEACHERS}, [word])
    assert idle_teachers(config, {"a", "b"}) == []


def test_a_look_at_a_run_says_so(tiny_zoo, tmp_path, capsys):
    named = [
        f"teachers.{name}={tiny_zoo[model[4:]]}" for name, model in TEACHERS.items()
    ]
    words = [f"student.model={tiny_zoo['student']}", *named, "phases=[dual]"]
    words += ["--check", f"run.dir={tmp_path}"]
    assert main(["train", *words]) == 0
    assert "'c' teaches nothing: no phase takes it" in capsys.readouterr().out
    assert main(["train", *words, "baselines.single_teachers=[c]"]) == 0
    assert "teaches nothing" not in capsys.readouterr().out  # it does so alone
