"""One live writer: who holds a run, who may take it, and who has to stop."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from experiments.config.parsing import ConfigError
from experiments.record import lease as module
from experiments.record.lease import Lease, LeaseLostError, hold_run, read_lease


def hold(run, **changes):
    """Write a lease as another process would."""
    held = {"token": "t", "host": "elsewhere", "pid": 1, "job": None, **changes}
    (run / "lease.json").write_text(json.dumps(held))


def test_a_run_is_held_inside_the_block_alone(tmp_path):
    with hold_run(tmp_path) as lease:
        assert read_lease(tmp_path)["pid"] == os.getpid()
        lease.check()
    assert read_lease(tmp_path) is None


def test_a_second_writer_is_told_who_the_first_one_is(tmp_path):
    with hold_run(tmp_path):
        match = rf"another process is writing .*process {os.getpid()} on .*run\.name"
        with pytest.raises(ConfigError, match=match), hold_run(tmp_path):
            pass
        assert read_lease(tmp_path)["pid"] == os.getpid()


def test_other_ranks_of_a_launch_hold_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with hold_run(tmp_path / "run") as lease:
        assert lease is None
    assert not (tmp_path / "run").exists()


def test_a_dead_holder_of_this_machine_is_followed_at_once(tmp_path, capsys):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    import socket

    hold(tmp_path, host=socket.gethostname(), pid=done.pid)
    with hold_run(tmp_path):
        assert read_lease(tmp_path)["pid"] == os.getpid()
    assert f"process {done.pid} on" in capsys.readouterr().err


def test_a_holder_elsewhere_is_believed_until_it_is_silent_for_long(tmp_path):
    hold(tmp_path)
    with pytest.raises(ConfigError, match="process 1 on elsewhere"):
        Lease(tmp_path).take(0.0)
    long_ago = time.time() - module.STALE_SECONDS - 5
    os.utime(tmp_path / "lease.json", (long_ago, long_ago))
    Lease(tmp_path).take(0.0)
    assert read_lease(tmp_path)["pid"] == os.getpid()


def test_under_slurm_a_holder_gets_time_to_end(tmp_path):
    hold(tmp_path)
    sleep = time.sleep

    def ends(seconds):
        (tmp_path / "lease.json").unlink(missing_ok=True)
        sleep(0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "sleep", ends)
        Lease(tmp_path).take(30.0)
    assert read_lease(tmp_path)["pid"] == os.getpid()


def test_an_orphan_that_was_given_up_stops_and_leaves_its_successor_alone(tmp_path):
    orphan, successor = Lease(tmp_path), Lease(tmp_path)
    orphan.take(0.0)
    orphan.check()
    (tmp_path / "lease.json").unlink()  # as after a minute of silence
    successor.take(0.0)
    with pytest.raises(LeaseLostError, match=r"taken over by process .* without"):
        orphan.check()
    orphan.release()
    successor.check()


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    with hold_run(tmp_path):
        file = tmp_path / "lease.json"
        os.utime(file, (1, 1))
        end = time.monotonic() + 10
        while file.stat().st_mtime < 2:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_lease_names_the_file_to_remove_and_since_when_it_is_held(tmp_path):
    with hold_run(tmp_path), pytest.raises(ConfigError) as raised:
        Lease(tmp_path).take(0.0)
    message = str(raised.value)
    assert f"remove {tmp_path / 'lease.json'}" in message
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d", message)


def test_a_clock_that_was_set_back_holds_nobody_up_for_long(tmp_path):
    hold(tmp_path)
    later = time.time() + 3 * module.STALE_SECONDS
    os.utime(tmp_path / "lease.json", (later, later))
    Lease(tmp_path).take(0.0)
    assert read_lease(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "1"}', "\x00{"])
def test_a_damaged_lease_holds_nothing(tmp_path, content):
    (tmp_path / "lease.json").write_text(content)
    assert read_lease(tmp_path) is None
    with hold_run(tmp_path) as lease:
        lease.check()


RACER = """
import sys, time
from pathlib import Path
from experiments.config.parsing import ConfigError
from experiments.record.lease import Lease

run = Path(sys.argv[1])
(run / f"ready{sys.argv[2]}").touch()
while not (run / "go").exists():
    time.sleep(0.001)
try:
    Lease(run).take(0.0)
except ConfigError:
    print("refused")
else:
    print("holds", flush=True)
    sys.stdin.read()  # until the others have tried
"""


def test_of_processes_that_race_exactly_one_holds_the_run(tmp_path):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("ready*"))) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = sorted(racer.stdout.readline().strip() for racer in racers)
    for racer in racers:
        racer.stdin.close()
        racer.wait()
        racer.stdout.close()
    assert said == ["holds", "refused", "refused"]
