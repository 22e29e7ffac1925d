"""What is shown of long work, on a narrow terminal and where there is none."""

import io
import threading

import pytest
from rich.console import Console

from experiments.record import progress
from experiments.record.course import Course
from experiments.record.progress import Progress, waiting
from tests.experiments.small_runs import small_config


@pytest.fixture
def now(monkeypatch):
    """The clock of lines; add to its one number."""
    ticks = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: ticks[0])
    return ticks


def test_lines_come_after_two_seconds_then_now_and_then_and_at_the_end(now, capsys):
    with Progress().work("reading", 100) as show:
        for done in range(1, 101):
            now[0] += 0.5
            show(done)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading: 4/100, 2 s, 48 s left"
    assert lines[1] == "reading: 34/100, 17 s, 33 s left"
    assert lines[-1] == "reading: 100/100, 50 s, 0 s left"
    assert len(lines) == 5


def test_what_went_before_is_not_counted_as_fast_work(now, capsys):
    with Progress().work("dual", 100) as show:
        show.start(89)
        now[0] = 3.0
        show(90)
    assert capsys.readouterr().err == "dual: 90/100, 3 s, 30 s left\n"


def test_loss_gradient_and_the_whole_run_stand_beside_the_steps(now, capsys):
    shown = Progress()
    legs = {("main", 0): (4, 1, False), ("ce_only", 0): (4, 0, False)}
    shown.course = Course(legs, clock=lambda: now[0])
    with shown.work("main · dual", 4, ("main", 0)) as show:
        show.note(progress.describe_losses({"loss": 3.21041, "grad_norm": 0.8765}))
        now[0] = 8.0
        show(2)
    assert capsys.readouterr().err == (
        "main · dual: 2/4, 8 s, 8 s left, loss 3.21, gradient 0.876, run 25%, "
        "about 16 s left\n"
    )


def test_other_processes_are_silent(now, capsys):
    with Progress(enabled=False).work("reading", 2) as show:
        now[0] = 60.0
        show(1)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_run_shows_its_last_loss_and_that_all_arms_are_done(
    tiny_zoo, tmp_path, capsys
):
    import json

    from experiments.cli import main

    config = small_config(tmp_path, tiny_zoo, {"baselines": {"ce_only": True}})
    assert main(["train", str(config)]) == 0
    shown = capsys.readouterr().err.splitlines()
    (first,) = (line for line in shown if line.startswith("main · dual: 2/2"))
    (last,) = (line for line in shown if line.startswith("ce_only · dual: 2/2"))
    assert ", run 50%, about " in first and ", run 100%, about 0 s left" in last
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").open())
    (row,) = (
        r
        for r in rows
        if (r["kind"], r["arm"], r.get("step")) == ("train", "ce_only", 2)
    )
    assert f"loss {row['loss']:.4g}, gradient {row['grad_norm']:.3g}" in last


@pytest.fixture
def heard(monkeypatch):
    """Lines that were said, and an event of the first; they come without a pause."""
    lines, first = [], threading.Event()

    def say(text):
        lines.append(text)
        first.set()

    monkeypatch.setattr(progress, "_line", say)
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 60.0)
    return lines, first


def test_work_of_unknown_length_says_that_it_goes_on_and_that_it_ended(heard):
    lines, first = heard
    with waiting("loading teachers gpt2, opt"):
        assert first.wait(30)
    assert lines == [
        "loading teachers gpt2, opt, 0 s",
        "loading teachers gpt2, opt: ended after 0 s",
    ]


def test_short_work_and_other_processes_are_quiet(heard, monkeypatch):
    lines, _ = heard
    with waiting("loading", enabled=False):
        pass
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 60.0)
    with waiting("loading"):
        pass
    assert lines == []


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_cuts_what_is_said_last_and_no_number(width):
    console = Console(width=width, file=io.StringIO())
    bars = progress.bars_on(console)
    said = ", loss 4.512, gradient 12.3, 3 min 20 s of the whole run left (31 %)"
    bars.update(bars.add_task("5-z_space", total=18, said=said), completed=5)

    console.print(bars.get_renderable())

    (line,) = console.file.getvalue().rstrip().splitlines()
    assert line.startswith("5-z_space") and " 5/18 " in line and "left, loss" in line
    assert len(line) <= width
