"""Two processes that die at the worst moments; then the same command, and nothing lost.

The faults are injected by ``experiments.bench.faults.inject``; docs/cluster.md lists
which tests hold the others.
"""

import time

import pytest
import yaml

from experiments.bench.faults import two_ranks as two
from experiments.bench.faults.inject import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PHASES = ["dual", "routing"]
STEPS = 3


@pytest.fixture(scope="module")
def undisturbed(tiny_zoo, tmp_path_factory):
    """The folder of a run that nobody disturbed, started as users do."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write(folder, tiny_zoo)
    process = two.launch(config, log=folder / "log.txt")
    assert process.wait() == 0, said(folder)
    return folder / "run"


def write(folder, zoo):
    models = zoo["student"].parent
    config = two.write_config(folder, models, PHASES, STEPS, grad_accum=2)
    settings = yaml.safe_load(config.read_text())
    settings["samples"] = {"prompts": 0}  # what it writes is not what is lost here
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    return config


def said_all(folder):
    return (folder / "log.txt").read_text(errors="replace")


def said(folder):
    return said_all(folder)[-4000:]


@pytest.fixture
def job(tiny_zoo, tmp_path, warm):
    """Start the run with faults; returns the exit code once every process has gone."""
    config = write(tmp_path, tiny_zoo)

    def start(*faults):
        process = led(warm, config, *faults)
        code = process.wait(timeout=1200)
        two.bury(tmp_path, leader=process.pid)
        return code

    return start


def led(warm, config, *faults):
    """A launcher whose processes are forked off it, as it is off another."""
    return warm.start(
        "experiments.bench.faults.two_ranks:lead",
        *(*faults, "train", str(config)),
        log=config.parent / "log.txt",
        environ=two.marks(config),
    )


def assert_nothing_lost(run, expected):
    assert two.finished(run)
    assert two.weights(run) == two.weights(expected)
    assert two.metrics(run) == two.metrics(expected)
    assert not list(run.rglob("*.part")) and not list(run.rglob("*.checkpoint"))


@pytest.mark.parametrize(
    "faults",
    [
        ["kill@write:rank=0:at=2", "kill@write:rank=1:at=2"],
        ["kill@collective:rank=1:at=5"],
        ["kill@marker:rank=0:at=2"],
        ["kill@export:rank=0:at=1"],
        ["full@write:rank=1:at=2"],
    ],
    ids=[
        "1: all processes, inside a save",
        "2: one process, inside a step",
        "4: killed while a slow save goes on",
        "15: inside an export",
        "6: no room for one process's share",
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(job, undisturbed, tmp_path, faults):
    assert job(*faults) != 0
    assert f"fault: {Fault.parse(faults[0])}" in said_all(tmp_path)
    assert not two.finished(tmp_path / "run")
    assert job() == 0, said(tmp_path)
    assert_nothing_lost(tmp_path / "run", undisturbed)


def test_a_warning_amid_accumulation_waits_for_the_step_on_all_processes(
    job, undisturbed, tmp_path
):
    """Fault 3. One rank is warned, all of them save after the same step."""
    assert job("term@teacher:rank=1:at=9") != 0
    assert "stopped as asked" in said_all(tmp_path)
    assert job() == 0, said(tmp_path)
    assert_nothing_lost(tmp_path / "run", undisturbed)


def test_orphans_of_a_dead_launcher_save_and_leave_and_no_one_writes_beside_them(
    job, undisturbed, tiny_zoo, tmp_path
):
    """Fault 5, of the launcher that users start."""
    config = write(tmp_path, tiny_zoo)
    process = two.launch(config, log=tmp_path / "log.txt")
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and '"train"' in metrics.read_text()):
        assert process.poll() is None, said(tmp_path)
        time.sleep(0.05)
    process.kill()
    process.wait()
    second = job()
    if second != 0:  # it came while they still wrote
        assert "another process is writing" in said(tmp_path)
        assert job() == 0, said(tmp_path)
    assert_nothing_lost(tmp_path / "run", undisturbed)


def test_faults_are_named_when_there_are_none_such():
    with pytest.raises(ValueError, match=r"'boil@sea'; give ACTION@POINT .*kill"):
        Fault.parse("boil@sea")
    with pytest.raises(ValueError, match="give rank=R and at=N"):
        Fault.parse("kill@step:when=3")
    assert Fault.parse("kill@step:rank=1:at=4") == Fault("kill", "step", 1, 4)


def test_teachers_split_over_processes_teach_the_same(
    undisturbed, tiny_zoo, tmp_path, warm
):
    config = write(tmp_path, tiny_zoo)
    settings = yaml.safe_load(config.read_text())
    for name in ("gpt2-prose", "t5-mixed"):
        settings["teachers"][name]["shard"] = True
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert led(warm, config).wait(1200) == 0, said(tmp_path)
    assert "'gpt2-prose', 't5-mixed' are split over 2 processes" in said_all(tmp_path)
    assert_nothing_lost(tmp_path / "run", undisturbed)
