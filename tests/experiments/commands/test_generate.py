import io
import json
import shutil

import pytest

from experiments.cli import main
from experiments.config.tree import load_config, save_config
from experiments.record.history import write_json
from experiments.record.students import phases_of
from tests.experiments.small_runs import said

FEW = ["--max-new-tokens", "3"]


@pytest.fixture
def run(tmp_path, tiny_llama):
    """Three phases, the second rolled back, and a baseline of two."""
    path = tmp_path / "run"
    save_config(
        load_config(None, [f"student.model={tiny_llama}"]), path / "config.yaml"
    )
    for place in ("1-dual", "2-multi_basic", "3-routing"):
        shutil.copytree(tiny_llama, path / "phases" / place / "student")
    for place in ("1-dual", "3-routing"):
        shutil.copytree(tiny_llama, path / "baselines/ce_only" / place / "student")
    record = path / "phases" / "3-routing.settings.json"
    write_json(record, {"rolled_back": ["multi_basic"]})
    return path


def labels(words, capsys):
    capsys.readouterr()
    assert main(["generate", *words, *FEW, "--prompt", "one", "--json"]) == 0
    (prompt,) = json.loads(capsys.readouterr().out)["prompts"]
    assert prompt["prompt"] == "one"
    return [student["student"] for student in prompt["students"]]


def test_phases_begin_from_the_last_that_was_kept(run):
    phases = phases_of(run)
    assert [phase.name for phase in phases] == ["dual", "multi_basic", "routing"]
    assert [phase.rolled_back for phase in phases] == [False, True, False]
    assert [phase.before for phase in phases] == [
        None,
        phases[0].folder,
        phases[0].folder,
    ]


def test_students_stand_side_by_side(run, capsys):
    name = str(run)
    assert labels([name], capsys) == ["before the run", "after routing"]
    assert labels([name, "--phase", "routing", "--baselines"], capsys) == [
        "before routing: after dual",
        "after routing",
        "ce_only, after routing",
    ]
    assert labels([name, "--all-phases"], capsys) == [
        "before the run",
        "after dual",
        "after multi_basic (rolled back)",
        "after routing",
    ]


def test_prompts_come_from_the_command_line_a_file_or_stdin(
    tiny_llama, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "prompts.txt"
    file.write_text("three\n\nfour\n")
    words = ["generate", str(tiny_llama), *FEW]
    assert main([*words, "--prompt", "one", "--prompt-file", str(file)]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(word) for word in ("one", "three", "four")]
    assert places == sorted(places)
    monkeypatch.setattr("sys.stdin", io.StringIO("five\r\nsix\u2028still\n"))
    assert main([*words, "--json"]) == 0
    prompts = json.loads(capsys.readouterr().out)["prompts"]
    assert [entry["prompt"] for entry in prompts] == ["five", "six\u2028still"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--phase", "routin"], "no phase 'routin' that is finished; did you mean"),
        (["--phase", "multi_basic", "--baselines"], "no baseline after phase multi"),
        (["--phase", "dual", "--all-phases"], "--phase and --all-phases contradict"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt-file", "gone.txt"], "--prompt-file: gone.txt is not there"),
        (["--prompt-file", "/"], "--prompt-file: / "),
        (["--chat"], "has no chat template"),
        (["--seed", str(1 << 63)], "give a whole number from 0 to 2^63"),
        (["--seed", "-1"], "seed is -1; give"),
        (["--top-p", "2"], "top_p is 2.0; give a share in (0, 1]"),
    ],
)
def test_wrong_words_are_refused(words, told, run, capsys):
    code, message = said(["generate", str(run), "--prompt", "a", *words], capsys)
    assert code == 2
    assert told in message


def test_what_cannot_write_is_refused(run, tiny_llama, tiny_zoo, tmp_path, capsys):
    shutil.rmtree(run / "phases")
    for name, told in (
        (run, "has no finished phase yet"),
        (tmp_path, "neither a run nor a model"),
        (tiny_zoo["bert-mixed"], "is an encoder, which goes on with no text"),
        (tmp_path / "gone", "gone does not exist"),
    ):
        code, message = said(["generate", str(name), "--prompt", "a"], capsys)
        assert code == 2
        assert told in message
    words = ["generate", str(tiny_llama), "--prompt", "a", "--all-phases"]
    assert "is a model and no run" in said(words, capsys)[1]


def test_a_talk_reads_lines_where_there_is_no_terminal(tiny_llama, capsys, monkeypatch):
    lines = "one\n\n/reset\none\n/nothing\n" + "x" * 5000 + "\n/quit\nnever\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["chat", str(tiny_llama), *FEW]) == 0
    shown = capsys.readouterr()
    first, second = shown.out.rstrip("\n").split("\n") if shown.out else ("", "")
    assert first == second  # the same again, as all was forgotten
    for told in ("no chat template", "forgotten", "no command '/nothing'", "5000"):
        assert told in shown.err
    assert shown.err.count("no chat template") == 1


def test_a_temperature_below_nothing_is_refused_by_what_is_valid(tiny_llama, capsys):
    words = ["generate", str(tiny_llama), "--prompt", "a", "--temperature"]
    for value in ("-1", "nan", "inf"):
        code, message = said([*words, value], capsys)
        assert code == 2
        assert f"temperature is {value}; give 0 for the likeliest" in message
