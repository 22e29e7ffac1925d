from dataclasses import replace

import numpy as np
import pytest

from experiments.report.routing import (
    draw_gates,
    draw_routing_domains,
    draw_routing_layers,
)


def test_domains_have_a_panel_each_and_stack_to_one(made_up):
    figure = draw_routing_domains(made_up)
    panels = [axes for axes in figure.axes if axes.collections]
    assert [axes.get_title("left") for axes in panels] == [
        "text of domain prose",
        "text of domain code",
    ]
    bands = [band.get_paths()[0].vertices for band in panels[0].collections]
    assert max(band[:, 1].max() for band in bands) == pytest.approx(1)


def test_layers_have_a_row_each_and_leave_absent_teachers_blank(made_up):
    figure = draw_routing_layers(made_up)
    images = {
        axes.get_title("left"): axes.images for axes in figure.axes if axes.images
    }
    cells = np.ma.filled(images["gpt2-prose"][0].get_array().astype(float), np.nan)
    assert cells.shape == (6, 16)
    lines = list(made_up.lines("routing"))
    assert cells[4, 0] == lines[0]["layers"]["4"]["gpt2-prose"]
    late = np.ma.filled(images["t5-mixed"][0].get_array().astype(float), np.nan)
    assert np.isnan(late[:, :8]).all() and not np.isnan(late[:, 8:]).any()


def test_one_routing_line_is_enough_to_draw(made_up):
    line = next(made_up.lines("routing"))
    rest = [m for m in made_up.metrics if m["kind"] == "train"]
    assert draw_routing_domains(replace(made_up, metrics=[*rest, line])) is not None


def test_no_routing_draws_nothing(made_up):
    rest = [m for m in made_up.metrics if m["kind"] != "routing"]
    run = replace(made_up, metrics=rest)
    assert draw_routing_domains(run) is None
    assert draw_routing_layers(run) is None


def test_gates_are_drawn_for_phases_in_which_they_moved(made_up):
    figure = draw_gates(made_up)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title("left") for axes in panels] == ["routing", "z_space"]
    first, second = panels[0].lines
    assert first.get_ydata()[-1] == pytest.approx(0.9)
    assert second.get_ydata()[-1] == pytest.approx(0.3)
    early = [m for m in made_up.metrics if m["phase"] == "dual"]
    assert draw_gates(replace(made_up, metrics=early)) is None
