"""Damage to what steers a run is found wherever it is read; earlier runs go on."""

import json
from pathlib import Path

import pytest

from align.foreign.seal import DamageError, read_sealed, unseal
from experiments.cli import main
from experiments.record.seals import unsealed
from student.checkpoint import CheckpointError, read_complete
from tests.experiments.small_runs import said

MARKERS = (
    "phases/1-dual/complete.json",
    "phases/1-dual.settings.json",
    "run.json",
    "state.json",
    "texts.json",
    "student/complete.json",
)


def flip(file: Path, place: int = -7) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def without_seals(run: Path) -> list[Path]:
    """Make of a run one that a version before there were seals has left."""
    (run / "teachers.json").unlink()  # which that version did not write
    files = [file for file in run.rglob("*.json") if file.parent.name != "student"]
    for file in files:
        file.write_text(json.dumps(read_sealed(file)[0], indent=1) + "\n")
    known = json.loads((run / "run.json").read_text())
    del known["config"]
    (run / "run.json").write_text(json.dumps(known))
    (run / "student" / "complete.json").unlink()
    return files


def refused(file: Path, places: range) -> int:
    """Flip bits one after the other; how many flips were refused."""
    data, count = bytearray(file.read_bytes()), 0
    content, sealed = unseal(bytes(data), file)
    assert sealed and content
    for place in places:
        for bit in range(8):
            data[place] ^= 1 << bit
            try:
                unseal(bytes(data), file)
            except DamageError:
                count += 1
            data[place] ^= 1 << bit
    return count


@pytest.mark.parametrize("name", MARKERS)
def test_every_flipped_bit_of_a_marker_is_refused(finished, name):
    file = finished[0] / name
    size = file.stat().st_size
    assert refused(file, range(size)) == 8 * size


@pytest.mark.slow
def test_every_flipped_bit_of_a_summary_is_refused(finished):
    file = finished[0] / "summary.json"
    size = file.stat().st_size
    assert refused(file, range(size)) == 8 * size


def test_a_phase_whose_marker_or_files_are_not_as_written_is_not_taken(run):
    folder = run[0] / "phases" / "1-dual"
    for name in ("complete.json", "student/model.safetensors", "student/config.json"):
        flip(folder / name)
        with pytest.raises(CheckpointError, match=f"{name}.*delete the folder"):
            read_complete(folder, digests=True)
        flip(folder / name)
    assert read_complete(folder, digests=True)["steps"] == 2


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("eval {run}", "phases/1-dual/student/model.safetensors"),
        ("eval {run}", "phases/1-dual/student/tokenizer.json"),
        ("eval {run}", "texts.json"),
        ("generate {run} --prompt x", "phases/1-dual/complete.json"),
        ("generate {run} --prompt x", "phases/1-dual.settings.json"),
        ("generate {run}/student --prompt x", "student/generation_config.json"),
        ("status {run}", "state.json"),
        ("report {run} --no-figures", "summary.json"),
        ("train {config} run.dir={run}/..", "run.json"),
    ],
)
def test_a_command_names_the_damaged_file_that_it_would_read(run, words, file, capsys):
    folder, config = run
    flip(folder / file, -20)
    given = [word.format(run=folder, config=config) for word in words.split()]
    code, message = said(given, capsys)
    assert code == 2 and Path(file).name in message


def test_a_file_laid_beside_a_student_is_refused(run, capsys):
    student = run[0] / "student"
    (student / "adapter_config.json").write_text("{}")
    (student / ".DS_Store").write_text("")  # nothing that loads a model reads it
    code, message = said(["generate", str(student), "--prompt", "x"], capsys)
    assert code == 2 and "adapter_config.json was not written with it" in message
    assert f"delete {student / 'complete.json'}" in message
    (student / "adapter_config.json").unlink()
    assert said(["generate", str(student), "--prompt", "x"], capsys) == (0, "")


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_read_with_a_word_and_then_sealed(run, capsys):
    folder, config = run
    files = without_seals(folder)
    rows = (folder / "metrics.jsonl").read_bytes()
    assert sorted(unsealed(folder)) == sorted(files)
    capsys.readouterr()
    assert main(["generate", str(folder), "--prompt", "x"]) == 0
    warned = capsys.readouterr().err
    assert f"run.json and {len(files) - 1} more files had no seal" in warned
    assert f"`mtkd train {folder / 'config.yaml'} --trust-checkpoint` seals" in warned
    again = ["train", config, f"run.dir={folder.parent}"]
    assert main(again) == 2  # nor is it signed
    assert main([*again, "--trust-checkpoint"]) == 0
    assert "is sealed now" in capsys.readouterr().err
    assert unsealed(folder) == [] and (folder / "student" / "complete.json").is_file()
    assert (folder / "metrics.jsonl").read_bytes() == rows  # nothing trained again
    assert main(again) == 0
    capsys.readouterr()
    assert main(["generate", str(folder), "--prompt", "x"]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.slow
def test_an_edited_config_is_told_of(run, capsys):
    folder, config = run
    file = folder / "config.yaml"
    assert main(["train", config, f"run.dir={folder.parent}"]) == 0
    file.write_text(file.read_text().replace("eval_samples: 4", "eval_samples: 5"))
    capsys.readouterr()
    assert main(["report", str(folder), "--no-figures"]) == 0
    assert f"{file} was edited or damaged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["unlinked", "a folder"])
def test_a_phase_that_lost_its_marker_is_not_trained_again_in_silence(
    run, capsys, lost
):
    folder, config = run
    marker = folder / "phases" / "1-dual" / "complete.json"
    marker.unlink()
    if lost == "a folder":
        marker.mkdir()
    code, message = said(["train", config, f"run.dir={folder.parent}"], capsys)
    assert code == 2 and f"marker {marker} is missing" in message
    assert main(["status", str(folder)]) == 0
    assert f"marker {marker} is missing" in capsys.readouterr().out
