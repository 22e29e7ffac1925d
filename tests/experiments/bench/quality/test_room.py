import numpy as np
import pytest

from experiments.bench.quality.arm import CE_ONLY, Arm
from experiments.bench.quality.room import draw_room, gains, room_of, room_table
from experiments.bench.quality.table import Outcome
from experiments.bench.quality.train import Setup
from experiments.record.history import write_json

ROOM = {
    "gain": 0.1,
    "ceiling": 0.2,
    "domains": {
        "prose": {"gain": 0.15, "ceiling": 0.25},
        "code": {"gain": 0.05, "ceiling": 0.15},
    },
}


def outcome(name, prose, code, teachers=("one", "other")):
    chars = np.full(20, 10.0)
    run = {
        domain: np.stack([bits * chars, chars], 1)
        for domain, bits in (("prose", prose), ("code", code))
    }
    return Outcome(Arm(name, "", teachers=teachers), (run, run), 1.0)


OUTCOMES = [
    outcome(CE_ONLY, 3.0, 3.0, ()),
    outcome("equal", 2.0, 2.0),
    outcome("prequential", 1.8, 2.1),
    outcome("one-alone", 1.5, 1.5, ("one",)),
]


@pytest.mark.slow
def test_what_is_gained_is_held_against_equal_weights_of_the_same_teachers():
    saved = gains(OUTCOMES)
    assert list(saved) == ["prequential"]
    assert saved["prequential"]["prose"] == pytest.approx((10, 10, 10))
    assert saved["prequential"]["code"] == pytest.approx((-5, -5, -5))
    assert saved["prequential"][None] == pytest.approx((2.5, 2.5, 2.5))
    assert room_table(OUTCOMES, ROOM) == [
        ["saved, %", "prose", "code", "mean"],
        ["a router could", "15.0", "5.0", "10.0"],
        ["no weighting more than", "25.0", "15.0", "20.0"],
        [
            "prequential",
            "+10.0 [+10.0, +10.0]",
            "-5.0 [-5.0, -5.0]",
            "+2.5 [+2.5, +2.5]",
        ],
    ]


def test_the_run_of_equal_weights_says_what_there_was_to_gain(tmp_path):
    bed = Setup(tmp_path / "config.yaml", tmp_path, 10)
    assert room_of(bed, OUTCOMES, 0) is None
    path = tmp_path / "equal" / "seed-0" / "summary.json"
    path.parent.mkdir(parents=True)
    write_json(path, {"routing_room": ROOM})
    assert room_of(bed, OUTCOMES, 0) == ROOM
    assert room_of(bed, OUTCOMES[:1], 0) is None
    write_json(path, {"routing_room": {}})
    assert room_of(bed, OUTCOMES, 0) is None


@pytest.mark.slow
def test_what_could_be_gained_is_drawn(tmp_path):
    draw_room(OUTCOMES, ROOM, tmp_path / "room.png")
    assert (tmp_path / "room.png").stat().st_size > 5000
