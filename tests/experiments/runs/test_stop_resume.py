"""A run that is asked to stop saves, says so, and goes on as if nothing had been."""

import io
import json
import os
import shutil
import signal
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import yaml

from align.foreign.signature import sign
from experiments.cli import main
from experiments.record.history import read_json
from experiments.record.metrics import Metrics
from experiments.record.progress import Progress
from experiments.record.stop import stop_on_signals
from tests.experiments.small_runs import said, small_config

STOPPED = 75
PHASES = ["dual", "routing"]
CHANGES = {
    "phases": PHASES,
    "phase": {
        "routing": {
            "teachers": {"min": 2},
            "loss": {
                "outcome_every": 2,
                "lambda_k": {"from": 1, "to": 3, "rule": "entropy"},
            },
            "output": {"projected_kl": 0.1},
        }
    },
    "train": {"steps": 5},
}
"""A weight goes by what teachers predicted so far, which has to be kept, too."""


def weights(run):
    """The bytes of the exported student and of every phase's."""
    found = sorted(run.rglob("student/model.safetensors"))
    return {str(file.relative_to(run)): file.read_bytes() for file in found}


def state(run):
    return read_json(run / "state.json")


def lines(run, arm="main"):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [r for r in rows if r["kind"] == "train" and r["arm"] == arm]


def steps(run, arm="main"):
    return [(row["phase"], row["step"]) for row in lines(run, arm)]


@pytest.fixture(scope="module")
def undisturbed(tiny_zoo, tmp_path_factory):
    """Train the same config to its end in another folder, once; its weights."""
    trained = {}

    def run(changes):
        key = json.dumps(changes, sort_keys=True)
        if key not in trained:
            folder = tmp_path_factory.mktemp("undisturbed")
            assert main(["train", str(small_config(folder, tiny_zoo, changes))]) == 0
            trained[key] = weights(folder / "run")
        return trained[key]

    return run


@pytest.fixture(scope="module")
def stopped_once(tiny_zoo, tmp_path_factory):
    """The folder of the one that every test has a copy of, and its exit code."""
    write = Metrics.write

    def write_and_signal(self, arm, phase, line, offset=0):
        write(self, arm, phase, line, offset)
        if (phase, line["kind"], line.get("step")) == ("routing", "train", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path_factory.mktemp("stopped")
    config, shown = small_config(folder, tiny_zoo, CHANGES), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(shown):
        patch.setattr(Metrics, "write", write_and_signal)
        code = main(["train", str(config)])
    assert "Traceback" not in shown.getvalue(), shown.getvalue()
    return folder, code, shown.getvalue()


@pytest.fixture
def stopped(stopped_once, tiny_zoo, tmp_path):
    """A run that got a TERM in its second phase: code, message, config, folder.

    It lay elsewhere when it was stopped; its texts lie there still.
    """
    folder, code, message = stopped_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for file in (tmp_path / "config.yaml", tmp_path / "run" / "config.yaml"):
        settings = yaml.safe_load(file.read_text())
        settings["run"]["dir"] = str(tmp_path)
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return code, message, tmp_path / "config.yaml", tmp_path / "run"


@pytest.mark.slow
def test_a_run_that_was_stopped_says_so_and_finishes_by_the_same_command(
    stopped, capsys, undisturbed
):
    code, message, config, run = stopped
    assert code == STOPPED, message
    assert "routing: 2 of 5 steps" in message
    assert "the same command goes on" in message
    assert state(run) == {"saved": True, "finished": False, "signal": "SIGTERM"}
    assert said(["train", str(config), "--resume", "must"], capsys) == (0, "")
    assert steps(run) == [(phase, step + 1) for phase in PHASES for step in range(5)]
    assert state(run)["finished"] is True
    assert not list(run.rglob("*.checkpoint"))
    assert weights(run) == undisturbed(CHANGES)
    said_first, *by_entropy = [
        row["schedules"]["loss.lambda_k"] for row in lines(run)[5:]
    ]
    assert said_first == 1 and all(1 < weight < 3 for weight in by_entropy)


@pytest.mark.slow
def test_a_stop_while_a_phase_is_measured_loses_nothing_of_it(
    tiny_zoo, tmp_path, monkeypatch, capsys, undisturbed
):
    over = Progress.over

    def signal_and_walk(self, items, title, total):
        if title == "measuring main · dual":
            os.kill(os.getpid(), signal.SIGTERM)
        return over(self, items, title, total)

    changes = {"phases": ["dual"], "train": {"steps": 3, "checkpoint_every": 2}}
    config = small_config(tmp_path, tiny_zoo, changes)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "over", signal_and_walk)
        code, message = said(["train", str(config)], capsys)
    assert code == STOPPED and "measuring main · dual: 0 of" in message, message
    run = tmp_path / "run"
    assert (run / "phases/1-dual.checkpoint/step-00000003").is_dir()
    assert said(["train", str(config)], capsys) == (0, "")
    assert steps(run) == [("dual", step + 1) for step in range(3)]
    assert not list(run.rglob("*.checkpoint"))
    assert weights(run) == undisturbed(changes)


@pytest.mark.slow
def test_a_run_says_where_it_is_why_it_ended_and_what_comes_next(stopped, capsys):
    _, _, config, run = stopped
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    assert f"{run}: stopped" in shown
    assert "launch 1: " in shown
    assert "stopped: SIGTERM, main · routing: 2 of 5 steps" in shown
    assert "routing        step 2 verified" in shown
    assert "next: the same command goes on with main · routing from step 2" in shown
    file = next(run.rglob("state-*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["next"].startswith("it would refuse to go on: no checkpoint of main")
    file.write_bytes(whole)
    assert main(["train", str(config)]) == 0
    capsys.readouterr()
    assert main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "finished" and found["next"].startswith("nothing")
    assert [launch["how"] for launch in found["attempts"]] == ["stopped", "finished"]


@pytest.mark.slow
def test_a_run_of_another_account_asks_for_trust_once(
    stopped, capsys, tmp_path, monkeypatch
):
    """Whatever the folder brings along: its markers, digests and signatures fit."""
    _, _, config, run = stopped
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    for folder in ("1-dual", "step-00000002"):
        code, message = said(["train", str(config)], capsys)
        assert code == 2 and f"{folder} is not signed" in message, message
        assert "\n" not in message and "--trust-checkpoint" in message
        assert main(["status", str(run), "--json"]) == 0
        following = json.loads(capsys.readouterr().out)["next"]
        assert following.startswith("it would refuse to go on: ")
        assert "--trust-checkpoint" in following
        if folder == "1-dual":
            sign(run / "phases" / folder)  # and not the checkpoint
    assert steps(run)[-1] == ("routing", 2)
    trusted = ["train", str(config), "--trust-checkpoint"]
    assert said(trusted, capsys) == (0, "")
    assert said(["train", str(config)], capsys) == (0, "")


def test_what_is_no_run_has_no_status(tmp_path, capsys):
    code, message = said(["status", str(tmp_path)], capsys)
    assert code == 2 and "holds no run" in message


@pytest.mark.slow
def test_a_text_that_changed_behind_its_path_is_noticed(stopped, capsys):
    _, _, config, run = stopped
    text = Path(yaml.safe_load(config.read_text())["data"]["train"][0])
    whole = text.read_bytes()
    text.write_bytes(whole.replace("café".encode(), b"cafe"))
    try:
        code, message = said(["train", str(config)], capsys)
    finally:
        text.write_bytes(whole)
    assert code == 2
    assert "texts.train: stored" in message and "Choose another run.name" in message
    assert f"texts are of {text}" in message
    assert steps(run)[-1] == ("routing", 2)


@pytest.fixture
def heeded():
    """Hang-ups end a process again where the suite is run under nohup."""
    outside = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, outside)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("measuring the untrained student", signal.SIGTERM),
        ("measuring qwen-code", signal.SIGHUP),
        ("calibrating dual", signal.SIGQUIT),
        ("measuring main · dual", signal.SIGTERM),
    ],
)
def test_a_run_that_is_asked_to_stop_while_it_measures_stops_and_loses_nothing(
    place, number, tiny_zoo, tmp_path, monkeypatch, capsys, undisturbed, heeded
):
    work = Progress.work

    def work_and_signal(self, title, total, leg=None):
        titles.append(title)
        if title.startswith(place):
            os.kill(os.getpid(), number)
        return work(self, title, total, leg)

    titles = []
    config = small_config(tmp_path, tiny_zoo, CHANGES)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "work", work_and_signal)
        code, message = said(["train", str(config)], capsys)
    assert code == STOPPED, (message, titles)
    run = tmp_path / "run"
    left = {"saved": True, "finished": False, "signal": signal.Signals(number).name}
    assert state(run) == left
    # What was trained is measured and saved first.
    assert (run / "phases" / "1-dual").exists() == (place == "measuring main · dual")
    assert said(["train", str(config), "--resume", "must"], capsys) == (0, "")
    assert weights(run) == undisturbed(CHANGES)


def test_a_signal_that_nohup_has_taken_away_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
    ],
)
def test_every_signal_that_asks_to_stop_is_noted_and_handed_back(number):
    outside = signal.getsignal(number)  # under nohup HUP is ignored
    signal.signal(number, signal.default_int_handler)
    try:
        with stop_on_signals() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
            assert stop.signal == signal.Signals(number).name
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_a_second_ctrl_c_does_not_wait():
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_short_is_named_and_costs_its_phase_only(
    stopped, capsys
):
    code, _, config, run = stopped
    assert code == STOPPED
    checkpoint = run / "phases" / "2-routing.checkpoint"
    file = next(checkpoint.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    code, message = said(["train", str(config)], capsys)
    assert code == 2
    assert f"checkpoint {checkpoint / 'step-00000002'} is damaged" in message
    assert "has 100 bytes" in message
    assert "delete the folder" in message
    shutil.rmtree(checkpoint)
    assert said(["train", str(config)], capsys) == (0, "")
    assert steps(run).count(("dual", 1)) == 1  # the first phase was not done again
    assert steps(run)[-1] == ("routing", 5)


def wait_for(condition, process, log, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("hard", [False, True], ids=["TERM", "KILL"])
def test_a_real_process_under_deepspeed_goes_on_bitwise(
    tiny_zoo, tmp_path, undisturbed, hard, warm
):
    """A kill leaves the last periodic checkpoint, and the same student at the end."""
    train = {"steps": 30, "engine": "deepspeed", "checkpoint_every": 4}
    phase = {**CHANGES["phase"], "dual": {"train": {"steps": 4}}}
    changes = {**CHANGES, "phase": phase, "train": train}
    config = small_config(tmp_path, tiny_zoo, changes)
    run = tmp_path / "run"
    log = tmp_path / "log.txt"

    def start():
        return warm.start("experiments.cli:main", "train", str(config), log=log)

    process = start()
    metrics = run / "metrics.jsonl"
    wait_for(
        lambda: metrics.exists() and len(steps_or_none(run)) >= 10,
        process,
        log,
    )
    process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
    code = process.wait(timeout=240)
    assert code == (-signal.SIGKILL if hard else STOPPED), log.read_text()
    assert state(run)["saved"] is not hard
    assert state(run)["finished"] is False
    assert start().wait(timeout=280) == 0, log.read_text()
    taken = steps(run)
    assert taken.count(("dual", 1)) == 1
    assert taken.count(("routing", 1)) == 1  # it went on from a checkpoint
    assert weights(run) == undisturbed(changes)


def steps_or_none(run):
    """As ``steps``, while somebody else is still writing."""
    try:
        return steps(run)
    except ValueError:  # half a line
        return []
