"""Numbers of a run reach trackers, and what breaks there costs a warning alone."""

import sys
import threading
import time
import warnings
from types import SimpleNamespace

import pytest
from accelerate import PartialState, tracking

from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config
from experiments.record.metrics import Metrics
from experiments.record.trackers.outside import Outside, Tracked, flat, trackers_of

SETTINGS = {"train": {"learning_rate": 0.1, "phases": ["a"]}, "name": None}


class Kept(tracking.GeneralTracker):
    """Keeps what it is given; breaks or waits where it is told to."""

    name, requires_logging_directory = "kept", False
    fails_at, waits = None, threading.Event()
    lines: list

    def __init__(self, run_name, **given):
        super().__init__()
        Kept.lines = []

    @property
    def tracker(self):
        return self.lines

    def start(self):
        assert PartialState._shared_state  # accelerate's own trackers write a log
        self._maybe("start")

    def store_init_configuration(self, values):
        self.lines.append(("settings", values))

    def log(self, values, step=None, **_):
        self._maybe("log")
        self.lines.append((step, values))

    def finish(self):
        self._maybe("finish")

    def _maybe(self, act):
        if self.fails_at == act:
            raise OSError(f"no {act}")
        if self.fails_at == "slow" and act == "log":
            self.waits.wait(5)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Opens trackers by name; ``wandb`` is one of ours."""
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Kept)
    monkeypatch.setattr(Kept, "fails_at", None)
    told = Tracked(folder=tmp_path, name="r", id="1f", settings=SETTINGS)
    return lambda *names, **more: Outside(names, told, **more)


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    tags = board.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags}


def test_tensorboard_of_accelerate_gets_what_metrics_get(run, tmp_path):
    metrics = Metrics(tmp_path, outside=run("tensorboard"))
    for step in (1, 2):
        line = {"kind": "train", "step": step, "loss": step / 4, "odd": float("nan")}
        metrics.write("single:a", "dual", line, offset=10)
    metrics.write_texts({"1/after": "The\nsea"}, "single:a", 12)
    metrics.close()
    shown = scalars(tmp_path / "trackers" / "mtkd")
    assert shown["single-a/train/loss"] == [(11, 0.25), (12, 0.5)]
    assert "single-a/train/odd" not in shown
    assert shown["single-a/system/process_memory_mib"][0][1] > 10
    ours = scalars(tmp_path / "tensorboard" / "single-a")
    assert ours["train/loss"] == [(11, 0.25), (12, 0.5)]
    (theirs,), (own,) = (
        texts(tmp_path / place) for place in ("trackers/mtkd", "tensorboard/single-a")
    )
    assert theirs == ("single-a/samples/1/after/text_summary", 12, "The\nsea")
    assert own == ("samples/1/after/text_summary", 12, "    The\n    sea")


def texts(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return [
        (tag, e.step, e.tensor_proto.string_val[0].decode())
        for tag in board.Tags()["tensors"]
        if tag.endswith("text_summary") and "samples" in tag
        for e in board.Tensors(tag)
    ]


@pytest.mark.parametrize("act", ["start", "log", "finish"])
def test_a_tracker_that_fails_costs_a_warning_and_no_other_its_lines(
    run, tmp_path, monkeypatch, act
):
    monkeypatch.setattr(Kept, "fails_at", act)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # not installed
    with pytest.warns(UserWarning) as caught:
        outside = run("wandb", "mlflow", "tensorboard")
        outside.log({"main/train/loss": 1.0}, 1)
        outside.log({"main/train/loss": 2.0}, 2)
        outside.close()
    said = [str(warning.message) for warning in caught]
    lost = f"tracker 'wandb' gets no more of this run (no {act})"
    assert sum(lost in s for s in said) == 1
    assert sum(s.startswith("tracker 'mlflow' gets no more") for s in said) == 1
    shown = scalars(tmp_path / "trackers" / "mtkd")
    assert shown["main/train/loss"] == [(1, 1.0), (2, 2.0)]


def test_a_tracker_that_waits_does_not_hold_the_run(run, monkeypatch):
    monkeypatch.setattr(Kept, "fails_at", "slow")
    start = time.monotonic()
    outside = run("wandb", patience=0.2)
    for step in range(5):
        outside.log({"main/train/loss": 1.0}, step)
    thread = outside._thread
    with pytest.warns(UserWarning, match="did not take all within 0 s"):
        outside.close()
    assert time.monotonic() - start < 3
    Kept.waits.set()
    thread.join()  # on a busy machine it would log what the next test looks at


def test_who_counts_steps_alone_gets_ours_as_a_number(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outside = run("wandb")
        outside.log({"main/train/loss": 1.0}, 7)
        outside.log({"ce_only/train/loss": 2.0}, 3)
        outside.close()
    assert Kept.lines[0] == ("settings", flat(SETTINGS))
    assert Kept.lines[1:] == [
        (None, {"main/train/loss": 1.0, "main/step": 7}),
        (None, {"ce_only/train/loss": 2.0, "ce_only/step": 3}),
    ]
    assert flat(SETTINGS) == {
        "train.learning_rate": 0.1,
        "train.phases": "['a']",
        "name": "None",
    }


def test_mlflow_writes_into_the_run_and_finds_a_run_that_goes_on(
    run, tmp_path, monkeypatch
):
    """Of a stand-in for its package, which says what is asked of it."""
    told, known = [], []
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "mlflow", OfMlflow)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stand_in = SimpleNamespace(
        set_tracking_uri=told.append,
        search_runs=lambda **asked: told.append(asked["filter_string"]) or known,
        log_text=lambda *text: told.append(text),
    )
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    for _ in range(2):
        outside = run("mlflow")
        outside.log({"main/train/loss": 1.0}, 7)
        outside.log({"main/samples/1": "The sea"}, 7)
        outside.close()
        known.append(SimpleNamespace(info=SimpleNamespace(run_id="a1")))
    folder = tmp_path / "trackers"
    place = [f"sqlite:///{folder}/mlflow.db", "tags.`mtkd.run` = '1f'"]
    assert told == 2 * [*place, ("The sea", "main/samples/1/7.txt")]
    first, again = OfMlflow.asked
    same = {"experiment_name": "mtkd", "run_name": "r"}
    same["logging_dir"] = (folder / "mlflow").as_uri()
    assert first == same | {"tags": {"mtkd.run": "1f"}}
    assert again == same | {"run_id": "a1"}
    assert Kept.lines == [(7, {"main/train/loss": 1.0})]  # its settings stay


class OfMlflow(Kept):
    asked: list = []  # noqa: RUF012

    def __init__(self, **given):
        super().__init__(given["run_name"])
        self.asked.append(given)


def test_trackers_are_named_as_accelerate_names_them():
    config = load_config({}, ["train.trackers=[wandb,trackio,mlflow]"])
    assert config.train.trackers == ["wandb", "trackio", "mlflow"]
    assert trackers_of(load_config({}), "1f") is None
    with pytest.raises(ConfigError, match=r"train\.trackers"):
        load_config({}, ["train.trackers=[weights_and_biases]"])
