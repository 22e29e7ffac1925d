"""Two processes that die at the worst moments; then the same command, and nothing lost.

The faults are injected by ``experiments.bench.faults.inject``; docs/cluster.md lists
which tests hold the others.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.bench.faults import two_ranks as two
from experiments.bench.faults.inject import Fault
from tests.experiments.launched import PHASES, ended, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FAULTS = {
    "1: all processes, inside a save": (
        "kill@write:rank=0:at=2",
        "kill@write:rank=1:at=2",
    ),
    "2: one process, inside a step": ("kill@collective:rank=1:at=5",),
    "4: killed while a slow save goes on": ("kill@marker:rank=0:at=2",),
    "6: no room for one process's share": ("full@write:rank=1:at=2",),
    "15: inside an export": ("kill@export:rank=0:at=1",),
}
"""In this order they strike one run, the last of them as its first phase ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Struck:
    """How a run was after a launch."""

    code: int
    log: str
    """What this launch said."""
    finished: bool
    saved: tuple[int, int]
    """The newest checkpoint: number of the phase, and step."""


@pytest.fixture(scope="module")
def struck(tiny_zoo, tmp_path_factory, warm):
    """A run that one fault after another strikes, the same command again each time, and
    that is left alone at last: its folder, and launch by launch what became of it.

    Each has gone on for a step at least, and saved it, before the next fault: what a
    fault spoils is in what is trained from there on.
    """
    folder = tmp_path_factory.mktemp("struck")
    config = write_config(folder, tiny_zoo["student"].parent)
    launches = {}
    for name, faults in {**FAULTS, "end": ()}.items():
        log = folder / f"log {len(launches)}.txt"
        code = ended(warm, config, log, *faults)
        launches[name] = Struck(
            code=code,
            log=log.read_text(errors="replace"),
            finished=two.finished(folder / "run"),
            saved=saved(folder / "run"),
        )
    return folder / "run", launches


def saved(run):
    every = [(0, 0)]
    for folder in run.glob("phases/*.checkpoint/step-*"):
        phase, step = folder.parent.name.partition("-")[0], folder.name[5:]
        if step.isdigit():
            every.append((int(phase), int(step)))
    return max(every)


def assert_nothing_lost(run, undisturbed):
    assert two.finished(run)
    assert two.weights(run) == two.weights(undisturbed.run)
    assert len(two.weights(run)) == len(PHASES) + 1
    assert two.metrics(run) == two.metrics(undisturbed.run)
    assert not list(run.rglob("*.part")) and not list(run.rglob("*.checkpoint"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_killed_run_goes_on_to_the_same_end(struck, undisturbed, name):
    run, launches = struck
    launch = launches[name]
    assert launch.code != 0
    for fault in FAULTS[name][:1]:
        assert f"fault: {Fault.parse(fault)}" in launch.log
    assert not launch.finished
    before = [(0, 0), *(each.saved for each in launches.values())]
    assert before[list(launches).index(name)] < launch.saved
    assert launches["end"].code == 0, launches["end"].log[-4000:]
    assert_nothing_lost(run, undisturbed)


def test_a_warning_amid_accumulation_waits_for_the_step_on_all_processes(
    undisturbed, tiny_zoo, tmp_path, warm
):
    """Fault 3. One rank is warned, all of them save after the same step."""
    config, log = write_config(tmp_path, tiny_zoo["student"].parent), tmp_path / "log"
    assert ended(warm, config, log, "term@teacher:rank=1:at=9") != 0
    assert "stopped as asked" in log.read_text(errors="replace")
    assert ended(warm, config, log) == 0, said(log)
    assert_nothing_lost(tmp_path / "run", undisturbed)


def test_orphans_of_a_dead_launcher_save_and_leave_and_no_one_writes_beside_them(
    undisturbed, left_alone, warm
):
    """Fault 5, of the launcher that users start."""
    run, log = left_alone.run, left_alone.log
    if left_alone.code != 0:  # it came while they still wrote
        assert "another process is writing" in said(log)
        assert ended(warm, run.parent / "config.yaml", log) == 0, said(log)
    assert_nothing_lost(run, undisturbed)


def said(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


def test_faults_are_named_when_there_are_none_such():
    with pytest.raises(ValueError, match=r"'boil@sea'; give ACTION@POINT .*kill"):
        Fault.parse("boil@sea")
    with pytest.raises(ValueError, match="give rank=R and at=N"):
        Fault.parse("kill@step:when=3")
    assert Fault.parse("kill@step:rank=1:at=4") == Fault("kill", "step", 1, 4)


def test_teachers_split_over_processes_teach_the_same(
    undisturbed, tiny_zoo, tmp_path, warm
):
    parted = {name: {"shard": True} for name in ("gpt2-prose", "t5-mixed")}
    config = write_config(tmp_path, tiny_zoo["student"].parent, parted)
    log = tmp_path / "log"
    assert ended(warm, config, log) == 0, said(log)
    split = "'gpt2-prose', 't5-mixed' are split over 2 processes"
    assert split in log.read_text(errors="replace")
    assert_nothing_lost(tmp_path / "run", undisturbed)
