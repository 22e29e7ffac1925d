"""Lines are written once, however often what they tell of is done."""

import json

import pytest

from experiments.record.metrics import Metrics

pytestmark = pytest.mark.edges


@pytest.fixture
def metrics(tmp_path):
    made = Metrics(tmp_path)
    yield made
    made.close()


def kept(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["arm"], row["phase"], row["kind"], row.get("step")) for row in rows]


def log(metrics, arm, phase, *steps):
    for step in steps:
        metrics.write(arm, phase, {"kind": "train", "step": step, "loss": 1.0})


def test_what_comes_after_a_checkpoint_is_forgotten_and_nothing_else(metrics, tmp_path):
    log(metrics, "main", "dual", 1, 2, 3)
    log(metrics, "ce_only", "dual", 1, 2, 3)
    log(metrics, "main", "routing", 1, 2, 3)
    metrics.write("main", "routing", {"kind": "event", "step": 3, "event": "x"})
    metrics.write("main", "routing", {"kind": "eval", "step": 1, "bpc": {"a": 1.0}})
    metrics.rewind("main", "routing", 2)
    assert kept(tmp_path) == [
        *(("main", "dual", "train", step) for step in (1, 2, 3)),
        *(("ce_only", "dual", "train", step) for step in (1, 2, 3)),
        *(("main", "routing", "train", step) for step in (1, 2)),
    ]
    log(metrics, "main", "routing", 3)
    assert kept(tmp_path)[-1] == ("main", "routing", "train", 3)


def test_a_line_of_every_launch_is_written_once(tmp_path):
    for value in (1, 1, 2):
        metrics = Metrics(tmp_path)
        metrics.write_once("main", "dual", {"kind": "reading", "step": 0, "x": value})
        metrics.close()
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["x"] for row in rows] == [1, 2]


def test_tensorboard_hides_the_repeated_steps_of_their_arm_alone(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files of one second are read in the order of a process's count of them, as a
    # text: after the ninth one the tenth would come before it
    counter = event_file_writer.AtomicCounter(0)
    monkeypatch.setattr(event_file_writer, "_global_uid", counter)
    for attempt in (1.0, 2.0):
        metrics = Metrics(tmp_path)
        metrics.rewind("main", "dual", 1 if attempt == 2.0 else 0)
        for step in (1, 2, 3) if attempt == 1.0 else (2, 3):
            line = {"kind": "train", "step": step, "loss": attempt}
            metrics.write("main", "dual", line)
        if attempt == 1.0:
            log(metrics, "single:gpt2", "dual", 1, 2, 3)
        metrics.close()
    shown = {}
    for arm in ("main", "single-gpt2"):
        board = EventAccumulator(str(tmp_path / "tensorboard" / arm))
        board.Reload()
        shown[arm] = [(e.step, e.value) for e in board.Scalars("train/loss")]
    assert shown["main"] == [(1, 1.0), (2, 2.0), (3, 2.0)]
    assert shown["single-gpt2"] == [(1, 1.0), (2, 1.0), (3, 1.0)]


def test_a_board_that_cannot_be_written_costs_no_line(metrics, tmp_path):
    (tmp_path / "tensorboard").write_text("where its folder would go")
    with pytest.warns(UserWarning, match=r"no more of this run .*metrics\.jsonl"):
        metrics.rewind("main", "dual", 0)
    log(metrics, "main", "dual", 1, 2)
    assert kept(tmp_path) == [("main", "dual", "train", step) for step in (1, 2)]
