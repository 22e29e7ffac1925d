"""What an error says to do works: each is done here as it is written."""

import json
import re
import shlex
import shutil

import pytest

from experiments.cli import main
from experiments.record.run_dir import read_run
from teacher.zoo import zoo_path
from tests.experiments.small_runs import said


def commands(message: str) -> list[list[str]]:
    """The words after ``mtkd`` of every command that a message quotes."""
    return [shlex.split(found) for found in re.findall(r"`mtkd ([^`]+)`", message)]


def steps(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if row["kind"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["{", "[]"])
def test_a_damaged_summary_is_written_anew_by_the_command_it_names(run, damage, capsys):
    folder, _ = run
    whole = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(damage)
    code, message = said(["report", str(folder), "--no-figures"], capsys)
    assert code == 2
    (words,) = commands(message)
    assert main(words) == 0
    assert (
        json.loads((folder / "summary.json").read_text())["phases"] == whole["phases"]
    )
    assert steps(folder) == [1, 2]  # nothing was trained again
    assert main(["report", str(folder), "--no-figures"]) == 0


def test_edited_lines_of_metrics_are_taken_once_their_sums_are_deleted(run, capsys):
    folder, _ = run
    metrics = folder / "metrics.jsonl"
    rows = metrics.read_text().split("\n")
    metrics.write_text("\n".join([rows[0], f"{rows[1]} ", *rows[2:]]))
    report = ["report", str(folder), "--no-figures"]
    capsys.readouterr()
    assert main(report) == 0
    told = "".join(capsys.readouterr())
    assert "line 2 is not as written, and left out" in told
    (sums,) = re.findall(r"delete (\S+)", told)
    (folder.parent / sums).unlink()
    assert main(report) == 0
    assert "not as written" not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_a_damaged_line_costs_itself_alone_and_is_said(run, capsys):
    folder, config = run
    metrics = folder / "metrics.jsonl"
    rows = metrics.read_bytes().splitlines()
    changed = rows[1].replace(b'"time": 1', b'"time": 2')
    assert changed != rows[1]
    metrics.write_bytes(b"\n".join([rows[0], changed, b"\xff", *rows[2:], b""]))
    told = f"{metrics}: lines 2, 3 are not as written, and left out"
    assert main(["report", str(folder), "--no-figures"]) == 0
    assert f"warning: {told}" in capsys.readouterr().err
    assert told in (folder / "report.md").read_text()
    assert main(["train", config, f"run.dir={folder.parent}"]) == 0
    assert f"warning: {told}" in capsys.readouterr().err
    assert steps(folder) == [1, 2]  # nothing was trained again
    assert {*rows} - {rows[1]} <= {*metrics.read_bytes().splitlines()}


@pytest.mark.slow
def test_a_run_that_was_moved_to_another_disk_keeps_its_phases(run, tmp_path, capsys):
    folder, config = run
    (tmp_path / "roomy").mkdir()
    folder.rename(tmp_path / "roomy" / "run")
    words = ["train", config, f"run.dir={tmp_path / 'roomy'}"]
    assert said(words, capsys) == (0, "")
    assert steps(tmp_path / "roomy" / "run") == [1, 2]


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_refused_with_two_ways_out(run, tmp_path, capsys):
    _, config = run
    here = ["train", config, f"run.dir={tmp_path}", "--resume"]
    code, message = said([*here, "never"], capsys)
    assert code == 2
    assert "choose another run.name, or --resume auto" in message
    assert said([*here, "auto"], capsys) == (0, "")


def test_a_config_to_start_from_is_read_back(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, message = said(["train", "nothing-of-the-kind"], capsys)
    assert code == 2
    (words,) = commands(message)
    assert words[:2] == ["recipes", "copy"] and words[3:] == ["my.yaml"]
    assert main(["recipes", "copy", "one_teacher", "my.yaml"]) == 0
    capsys.readouterr()
    assert main(["config", "show", "my.yaml"]) == 0


def test_a_model_of_the_zoo_that_is_not_built_is_built_by_the_command_it_names(
    tmp_path, monkeypatch, capsys
):
    from teacher.zoo import build

    monkeypatch.setenv("MTKD_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as missing:
        zoo_path("gpt2-prose", scale="tiny")
    asked = []
    monkeypatch.setattr(
        build,
        "_build_all",
        lambda models, folder, *_: asked.extend(
            folder / model.name for model in models
        ),
    )
    (words,) = commands(str(missing.value))
    assert main(words) == 0
    assert tmp_path / "zoo" / "tiny" / "gpt2-prose" in asked


@pytest.mark.slow
@pytest.mark.parametrize("name", ["complete.json", "../1-dual.settings.json"])
def test_what_is_to_be_deleted_may_be_and_the_phase_is_trained_again(
    run, name, tmp_path, capsys
):
    folder, config = run
    file = (folder / "phases" / "1-dual" / name).resolve()
    file.write_text(file.read_text()[:12])
    words = ["train", config, f"run.dir={tmp_path}"]
    code, message = said(words, capsys)
    assert code == 2
    paths = re.search(r"delete (?:the folder )?(.*?) to train this", message)[1]
    named = [path for path in re.split(" |, | and ", paths) if "/" in path]
    if paths.startswith("it"):
        named.append(str(file))
    for path in named:
        assert str(tmp_path) in path
        shutil.rmtree(path) if not path.endswith(".json") else file.unlink()
    assert said(words, capsys) == (0, "")
    assert read_run(folder).phases() == ["dual"]
