"""`sbatch scripts/run_multi_teacher.sh` on a real SLURM of two nodes."""

import json
import sys
from pathlib import Path

import pytest

from experiments.record.history import read_json

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

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


ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


def wait_for_end(cluster, folder, job, expected, seconds=420):
    cluster.wait(f"end of job {job}", lambda: cluster.state(job) in ENDED, seconds)
    assert cluster.state(job) == expected, output(folder, job)


def wait_while_it_runs(cluster, folder, job, what, holds, seconds=420):
    def either():
        return holds() or cluster.state(job) in ENDED

    cluster.wait(what, either, seconds)
    assert holds(), f"job {job} ended first\n{output(folder, job)}"


def state_of(folder):
    return read_json(folder / "run" / "state.json")


TINY = {
    "MTKD_ENTRY": "",
    "TEACHER_MODELS": "zoo:tiny/gpt2-prose zoo:tiny/qwen-code",
    "STUDENT_MODEL": "zoo:tiny/student",
    "PHASE": "1",
    "MAX_LENGTH": "32",
    "BATCH_SIZE": "2",
}
SMALL = [
    "data.train_samples=16",
    "data.eval_samples=4",
    "baselines.ce_only=false",
    "baselines.single_teachers=none",
    "phase.all.train.calibration_samples=4",
]


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
    three = lambda: steps.exists() and len(steps.read_text()) >= 6  # noqa: E731
    wait_while_it_runs(slurm, tmp_path, job, "third step", three)
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
    wait_while_it_runs(slurm, tmp_path, job, "first step", steps.exists)
    slurm.call("scancel", job)
    wait_for_end(slurm, tmp_path, job, "CANCELLED")
    slurm.wait("nothing in line", lambda: not slurm.call("squeue", "-h"))
    assert "requeueing" not in output(tmp_path, job)


def test_requeues_are_bounded(slurm, tmp_path):
    job = submit(slurm, tmp_path, "steps=400", "pause=0.25", nodes=1, MAX_REQUEUES="0")
    steps = tmp_path / "run" / "steps.txt"
    wait_while_it_runs(slurm, tmp_path, job, "first step", steps.exists)
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    wait_for_end(slurm, tmp_path, job, "FAILED")
    assert "already requeued 0 times (MAX_REQUEUES)" in output(tmp_path, job)
    assert state_of(tmp_path)["finished"] is False


@pytest.fixture(scope="module")
def tiny_zoo():
    """Built before the jobs start, so that they only read it."""
    from teacher.zoo import build_zoo

    build_zoo(scale="tiny", progress=False)


@pytest.mark.parametrize("ranks", [0, 1])
def test_a_student_learns_from_two_teachers_on_two_nodes(
    ranks, slurm, tmp_path, tiny_zoo
):
    """Its teachers beside it on both, or alone on the second."""
    from transformers import AutoModelForCausalLM

    words = [*SMALL, "phase.all.train.steps=3", f"train.teacher_ranks={ranks}"]
    job = submit(slurm, tmp_path, *words, **TINY)
    wait_for_end(slurm, tmp_path, job, "COMPLETED")
    run = tmp_path / "run"
    assert state_of(tmp_path)["finished"] is True
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    # One writer, though two ranks ran: each step of the phase once.
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps and len(steps) == len(set(steps))
    AutoModelForCausalLM.from_pretrained(run / "student")


def test_a_warned_training_goes_on_in_its_second_life(slurm, tmp_path, tiny_zoo):
    words = [*SMALL, "phase.all.train.steps=20", "phase.all.train.log_every=1"]
    job = submit(slurm, tmp_path, *words, **TINY)
    metrics = tmp_path / "run" / "metrics.jsonl"

    def trained():
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return sum('"train"' in line for line in lines) >= 3

    wait_while_it_runs(slurm, tmp_path, job, "third training step", trained)
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    requeued = f"requeueing job {job}"
    said = lambda: requeued in output(tmp_path, job)  # noqa: E731
    wait_while_it_runs(slurm, tmp_path, job, "requeue", said)
    assert state_of(tmp_path) | {"signal": ""} == {
        "saved": True,
        "finished": False,
        "signal": "",
    }
    wait_for_end(slurm, tmp_path, job, "COMPLETED")
    assert state_of(tmp_path)["finished"] is True
    lines = [json.loads(line) for line in metrics.open()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == sorted(set(steps)), "a step was lost in order or done twice"
    assert steps[-1] >= 19
