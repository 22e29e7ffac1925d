import pytest

from align.schedules import LossRecord, SeenRecord, Timetable
from align.schedules.losses import MEMORY
from align.schedules.seen import SUMS

FALLING = {"from": 4.0, "to": 1.0, "rule": "loss", "fall": 0.5}


def at(kept: float, **options) -> float:
    timetable = Timetable(10, reads_losses=True)
    timetable.kept = lambda term, step: kept if term == "ce" else 0.0
    return timetable.value(FALLING | options, "loss.a", 3)


def test_a_number_goes_as_far_as_the_loss_has_fallen_and_back():
    assert at(1.0) == 4.0
    assert at(0.75) == 2.5
    assert at(0.5) == at(0.1) == 1.0
    assert at(1.2) == 4.0  # a loss that rose
    assert at(0.75, curve="exponential") == pytest.approx(2.0)
    assert at(0.75, fall=1.0) == 3.25
    assert at(0.75, of="kd") == 1.0


def test_a_loss_counts_from_the_next_step_on_whoever_brings_its_parts():
    record = LossRecord(["ce", "kd"])
    assert record.kept("ce", 0) == 1
    record.note([3.0, 0.0], 0)
    record.note([1.0, 2.0], 0)  # another pass of the step
    assert record.kept("ce", 0) == 1
    assert record.kept("ce", 1) == record.kept("kd", 1) == 1
    record.note([2.0, 2.0], 1)
    after = MEMORY + (1 - MEMORY) * 2 / 4
    assert record.kept("ce", 1) == 1
    assert record.kept("ce", 2) == pytest.approx(after)
    record.note([float("nan"), 1.0], 2)
    record.note([0.0, 2.0], 2)
    assert record.kept("ce", 3) == pytest.approx(MEMORY * after)
    assert record.kept("kd", 3) == pytest.approx(1)
    assert record.kept("a term of another arm", 3) == 1


def test_a_record_goes_on_from_its_state():
    record, other = LossRecord(["ce"]), LossRecord(["ce"])
    for step, loss in enumerate((4.0, 3.0, 2.5)):
        record.note([loss], step)
    other.load_state_dict(record.state_dict())
    assert other.kept("ce", 3) == record.kept("ce", 3) < 1


def test_a_first_gap_of_zero_is_known_and_counts():
    record, asked = SeenRecord(), {"loss_gap"}

    def gap(step):
        return float(record.signals(asked, step)["loss_gap"]())

    nothing = dict.fromkeys(SUMS, 0.0)
    record.note_sums(nothing, 0)  # no teacher covered anything
    assert gap(1) == 0
    for step, more in ((1, 0.0), (2, 10.0)):
        record.note_sums({**nothing, "stretches": 10.0, "loss_gap": more}, step)
    assert gap(2) == 0
    assert gap(3) == pytest.approx(1 - MEMORY)
    other = SeenRecord()
    other.load_state_dict(record.state_dict())
    assert other.signals(asked, 3)["loss_gap"]() == pytest.approx(gap(3))
