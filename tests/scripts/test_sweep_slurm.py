"""`scripts/sweep.sh`: what it runs, and an array of it on a real SLURM of two nodes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.record.history import read_json
from tests.experiments.small_runs import small_config
from tests.scripts.test_extract_slurm import wait_for_end

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "sweep.sh")


def call(*words, **environment):
    return subprocess.run(
        ["bash", SCRIPT, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_it_runs_the_command_with_its_words_as_they_are():
    words = [
        "my.yaml",
        "seed=[0,1]",
        "train.learning_rate={low: 1, high: 2}",
        "--by",
        "x",
    ]
    shown = call("--print", *words, PYTHON=sys.executable)
    assert shown.returncode == 0, shown.stderr
    given = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {shown.stdout}"], capture_output=True, text=True
    )
    assert given.stdout.splitlines()[1:] == ["-m", "experiments.cli", "sweep", *words]


def test_it_says_what_is_missing():
    nothing = call()
    assert nothing.returncode == 2 and "give a config" in nothing.stderr
    absent = call("my.yaml", PYTHON="no-such-python")
    assert absent.returncode == 2 and "no interpreter" in absent.stderr


@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_an_array_shares_the_trials_and_trains_none_twice(slurm, tiny_zoo, tmp_path):
    config = small_config(tmp_path, tiny_zoo)
    words = ["train.learning_rate=[0.01, 0.001, 0.0001]", "--by", "bits_per_char"]
    submitted = slurm.call(
        "sbatch",
        "--parsable",
        "--array=0-1",
        SCRIPT,
        str(config),
        *words,
        env={"PYTHON": sys.executable},
        cwd=tmp_path,
    )
    job = submitted.partition(";")[0]
    wait_for_end(slurm, job, 2)
    logs = [log.read_text() for log in sorted(tmp_path.glob("mtkd-sweep-*.out"))]
    ledger = read_json(tmp_path / "run-sweep" / "ledger.json")
    assert [trial["state"] for trial in ledger["trials"]] == ["done"] * 3, logs
    assert [trial["tries"] for trial in ledger["trials"]] == [1, 1, 1], logs
    assert all("mtkd: [" in log for log in logs), logs  # both took some
