from dataclasses import replace

import pytest

from experiments.report.figures import (
    draw_balance,
    draw_comparison,
    draw_coverage,
    draw_health,
    draw_losses,
    draw_run,
    draw_schedules,
)
from experiments.report.plotting import COLOURS, draw_course, grid, whole_steps
from experiments.report.routing import draw_compared_layers
from tests.experiments.conftest import COARSE

DRAWS = True


def texts(figure):
    """Every text in the figure, drawn or not."""
    from matplotlib.text import Text

    return [found.get_text() for found in figure.findobj(Text) if found.get_text()]


def test_every_picture_is_written_and_opens(drawn):
    from matplotlib.image import imread

    _, paths = drawn
    assert [path.stem for path in paths] == [
        "comparison",
        "losses",
        "routing_domains",
        "routing_layers",
        "gates",
        "coverage",
    ]
    finer = grid(1, 1, (1, 1))[0].dpi / COARSE["savefig.dpi"]
    for path in paths:
        pixels = imread(path)
        assert min(pixels.shape[:2]) * finer > 300
        assert pixels[..., :3].std() > 0.02  # something is on it


def test_a_run_without_data_draws_nothing(made_up):
    assert draw_run(replace(made_up, metrics=[], summary={})) == []


def test_losses_have_a_panel_per_term_and_a_gap_between_phases(made_up):
    figure = draw_losses(made_up)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[:3] == ["total loss", "ce", "kv_k"]
    assert "z_reconstruction" in titles
    steps = [line.get_xdata() for line in figure.axes[1].lines[:1]]
    assert list(steps[0]) == [5, 10, 15, 20, 25, 30, 35, 40]
    drawn = [line for line in figure.axes[1].lines if len(line.get_xdata()) == 8]
    assert len(drawn) == 5
    assert drawn[-1].get_xdata()[-1] == 200  # phases stand one after another


def test_weights_of_a_balancer_are_drawn_where_there_is_one(made_up):
    assert draw_balance(made_up) is None
    weights = {"ce": 0.5, "kv_k": 2.0}
    metrics = [
        line | {"balance": weights}
        if line["kind"] == "train" and line["phase"] in ("dual", "routing")
        else line
        for line in made_up.metrics
    ]
    figure = draw_balance(replace(made_up, metrics=metrics))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*weights]
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 8]
    assert [line.get_ydata()[0] for line in drawn] == [0.5, 0.5, 2.0, 2.0]
    assert drawn[1].get_xdata()[0] == 125  # the fourth phase


def test_what_moves_is_drawn_by_its_name_in_the_phases_where_it_does(made_up):
    assert draw_schedules(made_up) is None
    metrics = [
        line | {"schedules": {"loss.lambda_k": 2.0, "loss.fade": line["step"] / 40}}
        if line["kind"] == "train" and line["phase"] in ("dual", "routing")
        else line
        for line in made_up.metrics
    ]
    figure = draw_schedules(replace(made_up, metrics=metrics))
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    assert titles == ["loss.lambda_k", "loss.fade"]
    drawn = [line for line in figure.axes[1].lines if len(line.get_xdata()) == 8]
    assert [list(line.get_ydata())[-1] for line in drawn] == [1.0, 1.0]


def test_health_is_drawn_as_shares_of_each_phases_start(made_up):
    shares = [(25, 1.0, 0.9), (40, 0.5, 0.8)]
    metrics = [
        {
            "kind": "health",
            "phase": phase,
            "step": step,
            "against_start": {"std_k": spread, "rank_v": rank},
        }
        for phase in ("dual", "multi_basic")
        for step, spread, rank in shares
    ]
    figure = draw_health(replace(made_up, metrics=[*made_up.metrics, *metrics]))
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["key spread", "value rank"]
    first, second = figure.axes[0].lines[:2]
    assert list(first.get_xdata()) == [25, 40]
    assert list(second.get_xdata()) == [65, 80]
    assert list(second.get_ydata()) == [1.0, 0.5]


def test_a_loss_that_is_not_finite_leaves_a_gap(made_up):
    metrics = [dict(line) for line in made_up.metrics]
    first = next(i for i, line in enumerate(metrics) if line["kind"] == "train")
    metrics[first] = metrics[first] | {"loss": float("nan")}
    figure = draw_losses(replace(made_up, metrics=metrics))
    assert figure.axes[0].lines[0].get_xdata()[0] == 10


def test_the_comparison_counts_from_the_ce_only_student(made_up):
    figure = draw_comparison(made_up)
    panels = [axes for axes in figure.axes if axes.get_title("left")]
    assert [axes.get_title("left") for axes in panels] == [
        "prose",
        "code",
        "mean over domains",
    ]
    points = {
        round(float(x), 6)
        for dots in panels[0].collections
        for x, _ in dots.get_offsets()
    }
    assert round(3.70 - 3.62, 6) in points  # dual, prose: saved
    assert round(3.02 - 3.05, 6) in points  # real_multi, prose: lost
    assert "dual\nCE only 3.700" in texts(figure)


def test_a_phase_that_was_rolled_back_is_marked_in_the_comparison(made_up):
    phases = list(made_up.summary["phases"])
    phases[1] = phases[1] | {"gate": {"rolled_back": True}}
    figure = draw_comparison(replace(made_up, summary={"phases": phases}))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ["rolled back" in label for label in labels] == [0, 1, 0, 0, 0]
    white = (1.0, 1.0, 1.0, 1.0)
    hollow = [
        tuple(dots.get_offsets()[0])[1]
        for dots in figure.axes[0].collections
        if tuple(dots.get_facecolor()[0]) == white
    ]
    assert hollow == [1.0]


def test_without_a_ce_only_arm_the_comparison_is_absolute(made_up):
    phases = [entry | {"ce_only": None} for entry in made_up.summary["phases"]]
    figure = draw_comparison(replace(made_up, summary={"phases": phases}))
    xs = {
        round(float(x), 3)
        for dots in figure.axes[0].collections
        for x, _ in dots.get_offsets()
    }
    assert {3.62, 3.64} <= xs
    assert any("left is better" in text for text in texts(figure))


def test_coverage_is_the_mean_per_phase_and_teacher(made_up):
    shown = texts(draw_coverage(made_up))
    assert shown.count("97.0%") == 5
    assert shown.count("73.0%") == 1  # t5-mixed takes part in z_space only


@pytest.mark.filterwarnings("error:Glyph")
def test_domains_in_chinese_are_shown_or_spelt_out(made_up, monkeypatch, caplog):
    from align.pictures import fonts

    bare = {fonts.BASE: fonts._families()[fonts.BASE]}
    monkeypatch.setattr(fonts, "_families", lambda: bare)
    fonts._tell.cache_clear()
    phases = [phase | {"bpc": {"新闻": 2.0}} for phase in made_up.summary["phases"]]
    # the comparison alone, which names domains
    assert len(draw_run(replace(made_up, metrics=[], summary={"phases": phases}))) == 1
    assert "no font on this machine shows 新 闻: pictures give code points" in (
        caplog.text
    )


def test_layers_that_change_are_drawn_a_panel_a_term(made_up):
    assert draw_compared_layers(made_up) is None

    def changed(line):
        if line["kind"] != "train" or line["phase"] != "dual":
            return line
        drawn = {"stream": [line["step"] % 3, 3], "deep": [3]}
        return line | {"layers": drawn, "layer_weights": {"deep": [0, 0.25, 0.75]}}

    metrics = [changed(line) for line in made_up.metrics]
    figure = draw_compared_layers(replace(made_up, metrics=metrics))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["stream", "deep"]
    stream, deep = (axes.images[0].get_array() for axes in figure.axes)
    lines = [x for x in metrics if x["arm"] == "main" and "layers" in x]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    for column, step in zip(stream.T, steps, strict=True):
        assert [layer for layer in range(4) if column[layer]] == [step % 3, 3]
    assert deep[:, 0].tolist() == [0, 0.25, 0.75]


def test_a_course_of_one_point_is_seen():
    """An outcome that was measured once a phase had an empty panel."""
    _, (axes,) = grid(1, columns=1, size=(2.0, 2.0))
    draw_course(axes, [(3.0, 5.4)], COLOURS[0])
    draw_course(axes, [(3.0, 5.4), (4.0, 5.3)], COLOURS[0])
    assert [line.get_marker() for line in axes.lines] == ["o", ""]


def test_steps_are_numbered_by_whole_ones():
    _, (axes,) = grid(1, columns=1, size=(4.0, 2.0))
    draw_course(axes, [(13.0, 1.0), (16.0, 2.0)], COLOURS[0])
    whole_steps(axes)
    assert all(tick == int(tick) for tick in axes.get_xticks())
