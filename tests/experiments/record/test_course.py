"""How far a run is, on a clock moved by hand."""

import pytest

from experiments.record.course import Course, duration


@pytest.fixture
def clock():
    """A clock that stands still; add to its one number."""
    return [0.0]


def course(clock, legs):
    return Course(legs, clock=lambda: clock[0])


def test_what_is_left_counts_every_arm_and_phase(clock):
    legs = {
        ("main", 0): (10, 1, False),
        ("ce_only", 0): (10, 0, False),
        ("main", 1): (20, 3, False),
        ("ce_only", 1): (20, 0, False),
    }
    whole = course(clock, legs)
    assert whole.seconds_left() is None
    leg = whole.leg("main", 0)
    clock[0] = 8.0
    leg.advance(4)  # 2 s a step with one teacher: 1 s for each model
    assert whole.share == 4 / 60
    assert whole.seconds_left() == 6 * 2 + 10 * 1 + 20 * 4 + 20 * 1
    assert leg.describe() == "run 7%, about 2 min 2 s left"
    clock[0] = 20.0
    leg.advance(10)
    plain = whole.leg("ce_only", 0)
    clock[0] = 25.0
    plain.advance(10)  # measured now: 0.5 s
    assert whole.seconds_left() == 20 * 8.0 / 2 + 20 * 0.5
    assert whole.leg("single:a", 0) is None


def test_what_an_earlier_launch_did_is_done_and_took_no_time_of_this_one(clock):
    legs = {("main", 0): (10, 1, True), ("main", 1): (10, 1, False)}
    whole = course(clock, legs)
    assert whole.share == 0.5
    leg = whole.leg("main", 1)
    clock[0] = 100.0  # models are read, adapters calibrated
    leg.start(4)
    clock[0] = 103.0
    leg.advance(5)
    assert whole.seconds_left() == 5 * 3.0
    clock[0] = 118.0
    leg.advance(10)
    assert (whole.share, whole.seconds_left()) == (1.0, 0.0)


def test_a_run_without_steps_is_done(clock):
    assert course(clock, {("main", 0): (0, 2, False)}).share == 1.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3660, "1 h 1 min"),
        (49 * 3600, "2 d 1 h"),
    ],
)
def test_durations_read_well(seconds, said):
    assert duration(seconds) == said
