"""Two processes: nothing is lost by a stop, whatever the ZeRO stage or their number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from student.loop.launch import MEETING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "student" / "ranks.py"
LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def run(processes, out, zoo, *work):
    """Run pieces of work in so many processes; per piece what each of them found."""
    folders = json.dumps({name: str(path) for name, path in zoo.items()})
    command = [sys.executable, str(SCRIPT), str(out), folders, *work]
    env = {k: v for k, v in os.environ.items() if k not in LAUNCH}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    meeting = out / f"meeting {work[-1]}"
    env |= {MEETING: str(meeting), "WORLD_SIZE": str(processes)}
    env |= {"LOCAL_WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            command,
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=(out / f"{rank}.err").open("w"),
            cwd=ROOT,
        )
        for rank in range(processes)
    ]
    try:
        codes = [process.wait(timeout=1400) for process in started]
    finally:
        for process in started:
            process.kill()
    said = "".join((out / f"{r}.err").read_text()[-3000:] for r in range(processes))
    assert codes == [0] * processes, said
    names = [name.replace(":", "-") for name in work]
    return [
        [json.loads((out / f"{n}.{r}.json").read_text()) for r in range(processes)]
        for n in names
    ]


def test_two_processes_stopped_and_resumed_equal_undisturbed_ones_bit_for_bit(
    tiny_zoo, tmp_path
):
    """Dropout on, gradients accumulated, every ZeRO stage, float32 and bfloat16."""
    ((one, two),) = run(2, tmp_path, tiny_zoo, "exact")
    assert len(one) == 8
    for name, held in one.items():
        assert all(held.values()), (name, held)
        assert all(two[name].values()), (name, two[name])


def test_what_one_process_finds_not_finite_no_process_learns_from(tiny_zoo, tmp_path):
    """Fails when a rank steps alone, or the moments move the weights of a bad step."""
    ((one, two),) = run(2, tmp_path, tiny_zoo, "skipped")
    assert len(one) == 8
    for name, held in one.items():
        assert held["unmoved"] and two[name]["unmoved"], name
        (event,) = held["events"]
        kind = name.partition(", ")[2]
        assert event["event"] == f"non-finite {kind}", name
        assert event["step"] == 2 and len(event["samples"]) == 2
        if kind == "loss":
            assert event["terms"] == ["ce"]
        else:
            assert event["teacher"] == "gpt2-prose"


def test_one_process_and_two_take_the_same_step_of_unequal_texts(tiny_zoo, tmp_path):
    """The gradient, its norm and every term, whatever the engine and the ZeRO stage."""
    ((alone,),) = run(1, tmp_path, tiny_zoo, "mean:9")
    ((one, two),) = run(2, tmp_path, tiny_zoo, "mean")
    expected = alone["9"]
    for stage, found in one.items():
        assert found["terms"] == pytest.approx(expected["terms"], rel=1e-5), stage
        assert found["norm"] == pytest.approx(expected["norm"], rel=1e-5), stage
        assert two[stage]["norm"] == found["norm"], stage
        far = size = 0.0
        for name, gradient in found["gradient"].items():
            pairs = zip(gradient, expected["gradient"][name], strict=True)
            far += sum((a - b) ** 2 for a, b in pairs)
            size += sum(b * b for b in expected["gradient"][name])
        assert far**0.5 <= 1e-5 * size**0.5, stage
    assert len(one) == 5 and one["9"]["gradient"] and one["0"]["gradient"]


def test_two_then_one_then_two_processes_take_the_same_steps(tiny_zoo, tmp_path):
    """The same samples in the same order, the same schedule, losses to 1e-5."""
    (undisturbed, first) = run(2, tmp_path, tiny_zoo, "relay:0:0", "relay:0:2")
    (alone,) = run(1, tmp_path, tiny_zoo, "relay:2:4")
    (again,) = run(2, tmp_path, tiny_zoo, "relay:4:6")
    expected = undisturbed[0]["losses"]
    losses = [*first[0]["losses"], *alone[0]["losses"], *again[0]["losses"]]
    assert len(expected) == 6
    assert losses == pytest.approx(expected, rel=1e-5)
    order = [
        part
        for pair in zip(*(r["read"] for r in undisturbed), strict=True)
        for part in pair
    ]
    taken = [
        part for pair in zip(*(r["read"] for r in first), strict=True) for part in pair
    ]
    taken += alone[0]["read"]
    taken += [
        part for pair in zip(*(r["read"] for r in again), strict=True) for part in pair
    ]
    assert taken == order
    texts = [text for part in order for text in part]
    assert len(texts) == len(set(texts)) == 24  # six steps of four: one epoch


def test_two_processes_weigh_terms_as_one_does_and_resume_what_they_learned(
    tiny_zoo, tmp_path
):
    ((alone,),) = run(1, tmp_path, tiny_zoo, "balanced:0")
    ((one, two),) = run(2, tmp_path, tiny_zoo, "balanced")
    assert len(one) == 4
    for stage, found in one.items():
        assert found["weights"] == two[stage]["weights"], stage
        assert found["went on"] and two[stage]["went on"], stage
    for stage in ("0", "1", "2"):
        for by_two, by_one in zip(
            one[stage]["weights"], alone["0"]["weights"], strict=True
        ):
            assert by_two == pytest.approx(by_one, rel=1e-3), stage


def test_muon_of_two_processes_that_divide_its_state_is_that_of_one(tiny_zoo, tmp_path):
    """And goes on bit for bit; one process goes on from what two wrote."""
    ((one, two),) = run(2, tmp_path, tiny_zoo, "divided")
    for found in (one, two):
        assert found["same losses"] and found["same weights"]
        assert found["length"] == [3, 2]
    ((alone,),) = run(1, tmp_path, tiny_zoo, "divided")
    assert alone["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert alone["after two"] == pytest.approx(one["losses"][3:], rel=1e-4)
