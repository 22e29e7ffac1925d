"""Who was asked about which share of the texts, and what that saved, by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.record.run_dir import RunDir
from experiments.report.evaluation.asked import draw_asked
from experiments.report.layout.html import html
from experiments.report.page import compose, report_text

DRAWS = True


def line(phase, step, asked, teachers_s, saved_s):
    said = {"asked": asked, "saved_s": saved_s} if asked else {}
    base = {"kind": "train", "arm": "main", "phase": phase, "step": step}
    took = {"step_s": 20.0, "parts_s": {"student": 19.0, "teachers": teachers_s}}
    return {**base, "loss": 1.0, "terms": {}, **took, **said}


@pytest.fixture
def run(tmp_path):
    lines = [
        line("label", 1, {"a": 1.0, "b": 0.0}, 0.5, 0.1),
        line("label", 4, {"a": 0.6, "b": 0.4}, 0.3, 0.5),  # of three steps
        line("soft", 2, None, 9.0, 0.0),
        line("bands", 10, {"b": 0.3, "c": 0.7}, 1.0, 9.0),
    ]
    other = line("label", 1, {"a": 0.2}, 1.0, 1.0) | {"arm": "without:b"}
    return RunDir(Path(tmp_path), [*lines, other])


def test_lines_count_by_the_steps_that_they_are_of(run):
    choices = run.choices()
    assert list(choices) == ["label", "bands"]
    label = choices["label"]
    assert label.asked == pytest.approx({"a": (1.0 + 3 * 0.6) / 4, "b": 0.3})
    assert label.steps == 4
    assert label.teachers_s == pytest.approx((0.5 + 3 * 0.3) / 4)
    assert label.saved_s == pytest.approx(0.1 + 3 * 0.5)
    assert label.saved == pytest.approx(1.6 / (1.6 + 1.4))
    assert run.choices("without:b")["label"].asked == {"a": 0.2}


def test_page_and_text_say_who_was_asked_and_what_was_saved(run):
    text = report_text(run)
    assert "## Which teacher was asked" in text
    assert "| label | a 70.0%, b 30.0% | 0.35 | 0.40 | 53.3% | 2 s |" in text
    assert "| bands | b 30.0%, c 70.0% | 1.00 | 9.00 | 90.0% | 1 min 30 s |" in text
    page = html(compose(run), run.figures)
    assert "a 70.0%, b 30.0%" in page and "53.3%" in page
    soft = replace(run, metrics=[m for m in run.metrics if m["phase"] == "soft"])
    assert "Which teacher was asked" not in report_text(soft)
    assert draw_asked(soft) is None


def test_shares_and_seconds_are_drawn_over_the_steps(run):
    shares, seconds = draw_asked(run).axes
    drawn = {
        (tuple(each.get_xdata()), tuple(each.get_ydata()))
        for each in shares.lines
        if each.get_marker() == "."
    }
    # phases stand one after another: 4, 2 and 10 steps
    assert drawn == {
        ((1, 4), (1.0, 0.6)),
        ((1, 4), (0.0, 0.4)),
        ((16,), (0.3,)),
        ((16,), (0.7,)),
    }
    legend = [text.get_text() for text in shares.get_legend().get_texts()]
    assert legend == ["a", "b", "c"]
    rows = [tuple(each.get_ydata()) for each in seconds.lines if len(each.get_xdata())]
    assert (0.5, 0.3) in rows and (0.6, 0.8) in rows and (10.0,) in rows
