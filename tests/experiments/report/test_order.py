"""What a curriculum has read is counted, told and drawn."""

from dataclasses import replace

import pytest
import torch

from align.text.documents import TextSample
from experiments.report.evaluation.order import draw_order, order_sections
from experiments.run.measures.order_told import what_was_read
from student.curriculum import Scores

SAMPLES = [TextSample(f"text {n}", "ab"[n >= 6], f"t:{n}") for n in range(10)]


def line():
    length = torch.arange(10, dtype=torch.float64)
    scores = Scores(domains=[s.domain for s in SAMPLES], columns={"length": length})
    # two steps of four texts: easy ones, then the two of each end
    read = [[0, 1, 2, 3], [0, 1, 8, 9]]
    return what_was_read(read, SAMPLES, scores, "length")


def test_readings_are_counted_by_difficulty_and_domain_and_what_is_left_is_named():
    counted = line()
    assert counted["bands"] == [[0.5, 0.5, 0, 0, 0], [0.5, 0, 0, 0, 0.5]]
    assert counted["domains"] == {"a": [1.0, 0.5], "b": [0.0, 0.5]}
    assert counted["reads"] == {"least": 0, "mean": 0.8, "most": 2}
    assert counted["never"] == {
        "a": {"texts": 2, "first": ["t:4", "t:5"]},
        "b": {"texts": 2, "first": ["t:6", "t:7"]},
    }


def test_the_report_tells_and_draws_it(made_up):
    assert order_sections(made_up) == [] and draw_order(made_up) is None
    told = {
        **{"kind": "order", "arm": "main", "phase": "dual", "step": 2},
        **{"curriculum": "bands", **line()},
    }
    run = replace(made_up, metrics=[*made_up.metrics, told])
    (section,) = order_sections(run)
    (row,) = section.blocks[1].rows
    assert row == ["dual", "bands", "length", "0.80", "0", "2", "4"]
    assert (
        "b: 2 texts were never read, such as t:6, t:7" in section.blocks[2].phrases[1]
    )
    figure = draw_order(run)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["dual: by length", "dual: by domain"]
    first = figure.axes[0].collections[0].get_paths()[0].vertices
    assert first[:, 1].max() == pytest.approx(0.5)
