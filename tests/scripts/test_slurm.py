"""`sbatch scripts/run_multi_teacher.sh` on a real SLURM of two nodes."""

import json
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "run_multi_teacher.sh")
STAND_IN = str(Path(__file__).with_name("stand_in.py"))


def submit(cluster, folder, *words, nodes=2, **variables):
    environment = {
        "PYTHON": sys.executable,
        "RUN_DIR": str(folder / "run"),
        "MTKD_ENTRY": STAND_IN,
        "SHUTDOWN_TIMEOUT": "30",
        "NPROC_PER_NODE": "1",
        **variables,
    }
    options = ["--parsable", f"--nodes={nodes}"]
    job = cluster.call("sbatch", *options, SCRIPT, *words, env=environment, cwd=folder)
    return job.partition(";")[0]


def output(folder, job):
    path = folder / f"mtkd-{job}.out"
    return path.read_text() if path.exists() else ""


def wait_for_end(cluster, folder, job, expected):
    ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
    cluster.wait(f"end of job {job}", lambda: cluster.state(job) in ended)
    assert cluster.state(job) == expected, output(folder, job)


def state_of(folder):
    return json.loads((folder / "run" / "state.json").read_text())


def test_one_sbatch_line_trains_on_two_nodes(slurm, tmp_path):
    job = submit(slurm, tmp_path)
    wait_for_end(slurm, tmp_path, job, "COMPLETED")
    log = output(tmp_path, job)
    assert state_of(tmp_path) == {
        "saved": True,
        "finished": True,
        "step": 3,
        "world": 2,
    }
    assert "rank 0 of 2 begins at step 0" in log
    assert "rank 1 of 2 begins at step 0" in log
    # The port follows from the job, so that two jobs on a node do not meet.
    assert f"127.0.0.1:{10000 + int(job) % 20000}" in log


def test_a_warned_job_saves_requeues_and_goes_on_where_it_was(slurm, tmp_path):
    job = submit(slurm, tmp_path, "steps=40", "pause=0.25")
    steps = tmp_path / "run" / "steps.txt"
    slurm.wait("third step", lambda: steps.exists() and len(steps.read_text()) >= 6)
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    wait_for_end(slurm, tmp_path, job, "COMPLETED")
    log = output(tmp_path, job)
    assert "got USR1" in log
    assert f"requeueing job {job} (time 1)" in log
    assert "attempt 1" in log
    # Every step once and in order: nothing was lost and nothing done twice.
    assert steps.read_text().split() == [str(step) for step in range(40)]
    assert state_of(tmp_path)["finished"] is True


def test_a_crash_is_not_requeued(slurm, tmp_path):
    job = submit(slurm, tmp_path, "steps=not-a-number", nodes=1)
    wait_for_end(slurm, tmp_path, job, "FAILED")
    assert "not requeued" in output(tmp_path, job)


def test_a_cancelled_job_stays_cancelled(slurm, tmp_path):
    job = submit(slurm, tmp_path, "steps=400", "pause=0.25", nodes=1)
    steps = tmp_path / "run" / "steps.txt"
    slurm.wait("first step", steps.exists)
    slurm.call("scancel", job)
    wait_for_end(slurm, tmp_path, job, "CANCELLED")
    slurm.wait("nothing in line", lambda: not slurm.call("squeue", "-h"))
    assert "requeueing" not in output(tmp_path, job)


def test_requeues_are_bounded(slurm, tmp_path):
    job = submit(slurm, tmp_path, "steps=400", "pause=0.25", nodes=1, MAX_REQUEUES="0")
    steps = tmp_path / "run" / "steps.txt"
    slurm.wait("first step", steps.exists)
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    wait_for_end(slurm, tmp_path, job, "FAILED")
    assert "already requeued 0 times (MAX_REQUEUES)" in output(tmp_path, job)
    assert state_of(tmp_path)["finished"] is False
