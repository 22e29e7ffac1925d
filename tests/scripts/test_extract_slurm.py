"""`sbatch --array scripts/extract_teacher_kv.sh` on a real SLURM of two nodes."""

import sys
from pathlib import Path

import pytest

from tests.experiments.small_runs import small_config
from tests.teacher.store.conftest import visible

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "extract_teacher_kv.sh")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


@pytest.fixture(scope="module")
def config(tiny_zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("array")
    store = {"dir": str(folder / "kv"), "shard_samples": 4}
    data = {"train_samples": 24}
    return small_config(folder, tiny_zoo, {"store": store, "data": data})


def submit(cluster, folder, array, *words):
    job = cluster.call(
        "sbatch",
        "--parsable",
        f"--array={array}",
        SCRIPT,
        *words,
        env={"PYTHON": sys.executable},
        cwd=folder,
    )
    return job.partition(";")[0]


def wait_for_end(cluster, job, tasks):
    def ended():
        shown = cluster.call("scontrol", "show", "job", "-o", job, check=False)
        states = [
            line.partition("JobState=")[2].split()[0] for line in shown.split("\n")
        ]
        return len(states) == tasks and set(states) <= ENDED

    cluster.wait(f"end of array {job}", ended, 600)


def output(folder, job):
    logs = sorted(folder.glob(f"mtkd-extract-{job}_*.out"))
    return "\n".join(f"-- {log.name}\n{log.read_text()}" for log in logs)


def test_an_array_over_two_nodes_makes_what_one_task_makes(slurm, config, capsys):
    from experiments.cli import main

    folder = config.parent
    assert main(["extract", str(config), "store.name=alone"]) == 0
    words = [str(config), "store.name=array"]
    # One task dies half way: its shards are missing, all others are there.
    job = submit(slurm, folder, "0-2", *words)
    started = lambda: (folder / "kv" / "array" / "gpt2-prose" / "plan.json").exists()  # noqa: E731
    slurm.wait("first plan", started, 300)
    slurm.call("scancel", "--signal=KILL", "--full", f"{job}_1", check=False)
    wait_for_end(slurm, job, 3)
    # The same line again makes what is missing, here while another does the same.
    again = [submit(slurm, folder, "0-2", *words) for _ in range(2)]
    for one in again:
        wait_for_end(slurm, one, 3)
    said = output(folder, again[0]) + output(folder, again[1])
    for teacher in ("gpt2-prose", "qwen-code"):
        alone = visible(folder / "kv" / "alone" / teacher)
        assert visible(folder / "kv" / "array" / teacher) == alone, said
    capsys.readouterr()
    assert main(["store", "verify", str(folder / "kv" / "array")]) == 0
