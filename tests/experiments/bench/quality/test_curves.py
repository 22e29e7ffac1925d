import pytest

from experiments.bench.quality.arm import CE_ONLY
from experiments.bench.quality.arms import ARMS
from experiments.bench.quality.curves import (
    Point,
    at_equal_cost,
    best_at,
    curve_table,
    curves_of,
    draw_curves,
)
from experiments.bench.quality.train import Setup
from experiments.config.tree import config_path
from experiments.record.history import write_json

ARMS_SHOWN = [ARMS[CE_ONLY], ARMS["ce-longer"], ARMS["qwen-code-out"]]


@pytest.fixture
def beds(tmp_path):
    """Two lengths: CE only gains 0.2 bits with every doubling, the taught arm too."""
    beds = [
        Setup(config_path("quality"), tmp_path / f"{n}", steps)
        for n, steps in enumerate((10, 20))
    ]
    costs = {CE_ONLY: (1, 2.0), "ce-longer": (2, 1.8), "qwen-code-out": (3, 1.7)}
    for number, bed in enumerate(beds):
        for name, (cost, bits) in costs.items():
            rows = [[10 * (bits - 0.2 * number), 10]]
            seconds = cost * 2**number * 8.0
            result = {"bits": {"code": rows}, "cpu_s": seconds, "leads": {}}
            write_json(bed.result(ARMS[name], 0), result)
    return beds


def test_longer_ce_only_is_a_point_of_its_curve_and_lengths_are_in_order(beds):
    curves = curves_of(beds, ARMS_SHOWN, [0])
    assert list(curves) == [CE_ONLY, "qwen-code-out"]
    # 20 steps were measured twice, to the same bits at the same cost.
    assert curves[CE_ONLY] == [
        Point(10, 8, 2.0),
        Point(20, 16, 1.8),
        Point(40, 32, pytest.approx(1.6)),
    ]
    assert [point.steps for point in curves["qwen-code-out"]] == [10, 20]
    assert curves_of(beds, ARMS_SHOWN, [0, 1]) == {}


def test_arms_are_compared_at_equal_steps_and_at_equal_processor_time(beds):
    curves = curves_of(beds, ARMS_SHOWN, [0])
    plain = curves[CE_ONLY]
    # Half way between 16 and 32 seconds by their logarithms, which is where bits are.
    assert at_equal_cost(plain, 16 * 2**0.5) == pytest.approx(1.7)
    assert at_equal_cost(plain, 33) is None and at_equal_cost(plain, 7) is None
    heads, *rows = curve_table(curves, [CE_ONLY])
    assert heads[0] == "arm" and rows[0] == [CE_ONLY, "10", "8", "2.000", "", ""]
    first, second = rows[3:]
    # 1.7 against 2.0; and against 1.8 - 0.2 * log2(24 / 16).
    assert first[:5] == ["qwen-code-out", "10", "24", "1.700", "-15.0"]
    assert first[5] == "+1.0"
    assert second[4:] == ["-16.7", ""]


def test_at_equal_time_the_best_of_the_arms_alone_is_taken_and_where_it_was_best():
    """One that has begun to learn by heart is not held against anybody."""
    plain = [Point(10, 10, 2.0), Point(20, 20, 1.8), Point(40, 40, 1.9)]
    assert at_equal_cost(plain, 30) == at_equal_cost(plain, 400) == 1.8
    tuned = [Point(40, 41, 1.7)]
    taught = [Point(20, 50, 1.6), Point(10, 9, 2.1)]
    curves = {CE_ONLY: plain, "tune-decay-1": tuned, "qwen-code-out": taught}
    _, *rows = curve_table(curves, [CE_ONLY, "tune-decay-1"])
    assert [row[-1] for row in rows] == ["", "", "", "", "", ""]  # 1.7 may fall further
    tuned.append(Point(80, 45, 1.75))
    _, *rows = curve_table(curves, [CE_ONLY, "tune-decay-1"])
    assert [row[-1] for row in rows] == ["", "", "", "", "", "-5.9", ""]
    assert rows[3][-2:] == ["-10.5", ""]  # at equal steps, 1.7 against 1.9


def test_a_worse_arm_without_a_teacher_hides_nothing():
    good = [Point(300, 50, 2.417), Point(600, 100, 2.173), Point(1200, 200, 2.101)]
    bad = [Point(300, 52, 2.9), Point(600, 97, 2.6), Point(1200, 205, 2.3)]
    assert (
        best_at([good, bad], 90) == at_equal_cost(good, 90) == pytest.approx(2.21, 1e-3)
    )
    assert best_at([good, bad], 250) is None  # the better one may fall further
    assert best_at([[*good, Point(2400, 240, 2.2)], bad], 250) == 2.101


def test_who_learns_from_its_own_past_is_not_alone():
    assert ARMS["ce-longer"].alone and ARMS["tune-decay-1"].alone
    for name in ("born-again", "ema", "mutual", "qwen-code"):
        assert not ARMS[name].alone


def test_curves_are_drawn(beds, tmp_path):
    draw_curves(curves_of(beds, ARMS_SHOWN, [0]), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
