import hashlib
import json
import shutil

import pytest
import yaml

from align.errors import InputError
from align.foreign.marker import MARKER
from experiments.publishing.evidence import config_of, write_evidence
from experiments.publishing.student import student_folder
from experiments.record.run_dir import read_run
from student.checkpoint import mark_complete


@pytest.fixture
def written(finished, tmp_path):
    write_evidence(finished, tmp_path / "evidence")
    return tmp_path / "evidence"


def test_digests_are_those_of_the_files(finished, written):
    digests = json.loads((written / "digests.json").read_text())
    for group, folder in (
        ("student", finished.path / "student"),
        ("run", finished.path),
    ):
        assert digests[group]
        for name, digest in digests[group].items():
            whole = (folder / name).read_bytes()
            assert hashlib.sha256(whole).hexdigest() == digest
    assert "model.safetensors" in digests["student"]
    assert set(digests["run"]) == {"config.yaml", "summary.json"}


def test_every_setting_is_there_and_every_number(finished, written):
    config = yaml.safe_load((written / "config.yaml").read_text())
    assert config["data"]["train"] == ["prose=books.jsonl", "org/set"]
    assert config["data"]["max_length"] == 64
    results = json.loads((written / "results.json").read_text())
    assert [p["bpc"] for p in results["phases"]] == [
        p["bpc"] for p in finished.summary["phases"]
    ]
    assert results["seed"] == 3


def test_damage_to_the_student_is_found_before_it_goes_anywhere(finished, tmp_path):
    run = read_run(shutil.copytree(finished.path, tmp_path / "run"))
    mark_complete(run.path / "student", {})
    assert MARKER not in {p.name for p in student_folder(run).glob("*.safetensors")}
    weights = run.path / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        student_folder(run)


def test_without_a_config_nothing_can_be_said(finished, tmp_path):
    run = read_run(shutil.copytree(finished.path, tmp_path / "run"))
    (run.path / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"config\.yaml is missing"):
        config_of(run)
