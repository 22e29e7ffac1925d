"""One live writer: who holds a run, who may take it, and who has to stop."""

import json
import os
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
