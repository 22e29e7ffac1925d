"""Who listens on the network while a real run goes on, from its start to its end."""

import time

import pytest

from experiments.bench.faults import two_ranks as two
from tests.listening import listening, needs_proc

pytestmark = [needs_proc, pytest.mark.slow, pytest.mark.timeout(900)]


def listened(process, folder):
    """Every address on which a process of this run listened, watched until it ended."""
    places, rounds, pids = set(), 0, []
    while process.poll() is None:
        if rounds % 5 == 0:  # reading the environment of every process takes longest
            pids = two.pids_of(folder)
        rounds += 1
        for pid in pids:
            try:
                places |= {(pid, *place) for place in listening(pid)}
            except OSError:  # it has just ended
                continue
        time.sleep(0.05)
    log = (folder / "log.txt").read_text(errors="replace")
    assert process.returncode == 0 and two.finished(folder / "run"), log[-3000:]
    return places


@pytest.fixture
def watched(tiny_zoo, tmp_path):
    """Run a phase and give what :func:`listened` saw."""

    def run(**how):
        models = tiny_zoo["student"].parent
        config = two.write_config(tmp_path, models, ["dual"], 2)
        process = two.launch(config, log=tmp_path / "log.txt", **how)
        return listened(process, tmp_path)

    return run


def test_a_run_of_one_process_listens_on_nothing(watched):
    assert watched(processes=1) == set()


def test_a_run_of_two_processes_on_one_machine_listens_on_loopback_alone(watched):
    places = watched()
    assert len({pid for pid, _, _ in places}) == 2  # gloo's, of both
    assert {address for _, address, _ in places} == {"127.0.0.1"}
