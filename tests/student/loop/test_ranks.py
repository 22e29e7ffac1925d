"""Two processes: nothing is lost by a stop, whatever the ZeRO stage or their number."""

import json

import pytest

from student.loop.launch import MEETING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def run(warm, tmp_path, tiny_zoo):
    """Run pieces of work in so many processes; per piece what each of them found."""
    folders = json.dumps({name: str(path) for name, path in tiny_zoo.items()})

    def start(processes, *work):
        meeting = str(tmp_path / f"meeting {work[-1]}")
        shared = {MEETING: meeting, "WORLD_SIZE": str(processes)}
        shared |= {"LOCAL_WORLD_SIZE": str(processes)}
        logs = [tmp_path / f"{rank}.err" for rank in range(processes)]
        started = [
            warm.start(
                "tests.student.ranks:main",
                *(str(tmp_path), folders, *work),
                log=log,
                environ={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank, log in enumerate(logs)
        ]
        try:
            codes = [process.wait(timeout=1400) for process in started]
        finally:
            for process in started:
                process.kill()
        assert codes == [0] * processes, "".join(x.read_text()[-3000:] for x in logs)
        names = [name.replace(":", "-") for name in work]
        return [
            [
                json.loads((tmp_path / f"{name}.{rank}.json").read_text())
                for rank in range(processes)
            ]
            for name in names
        ]

    return start


def test_two_processes_stopped_and_resumed_equal_undisturbed_ones_bit_for_bit(run):
    """Dropout on, gradients accumulated, every ZeRO stage, float32 and bfloat16."""
    ((one, two),) = run(2, "exact")
    assert len(one) == 8
    for name, held in one.items():
        assert all(held.values()), (name, held)
        assert all(two[name].values()), (name, two[name])


def test_groups_with_copies_of_weights_train_as_zero_3_without_them(run):
    """Four processes in two groups (hpZ), stopped and resumed, in two engines."""
    (results,) = run(4, "hybrid")
    for result in results:
        without, *with_copies = result["losses"].values()
        assert len(without) == 4
        assert all(losses == without for losses in with_copies)
        assert result["same weights"] == [True, True]


def test_what_one_process_finds_not_finite_no_process_learns_from(run):
    """Fails when a rank steps alone, or the moments move the weights of a bad step."""
    ((one, two),) = run(2, "skipped")
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


def test_one_process_and_two_take_the_same_step_of_unequal_texts(run):
    """The gradient, its norm and every term, whatever the engine and the ZeRO stage."""
    ((alone,),) = run(1, "mean:9")
    ((one, two),) = run(2, "mean")
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


def test_two_then_one_then_two_processes_take_the_same_steps(run):
    """The same samples in the same order, the same schedule, losses to 1e-5."""
    (undisturbed, first) = run(2, "relay:0:0", "relay:0:2")
    (alone,) = run(1, "relay:2:4")
    (again,) = run(2, "relay:4:6")
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


def test_two_processes_weigh_terms_as_one_does_and_resume_what_they_learned(run):
    ((alone,),) = run(1, "balanced:0")
    ((one, two),) = run(2, "balanced")
    assert len(one) == 4
    for stage, found in one.items():
        assert found["weights"] == two[stage]["weights"], stage
        assert found["went on"] and two[stage]["went on"], stage
    for stage in ("0", "1", "2"):
        for by_two, by_one in zip(
            one[stage]["weights"], alone["0"]["weights"], strict=True
        ):
            assert by_two == pytest.approx(by_one, rel=1e-3), stage


def test_what_follows_losses_and_domains_is_one_on_two_processes(run):
    """And projectors of a term learn alike, whatever ZeRO divides."""
    ((alone,),) = run(1, "followed:1")
    ((one, two),) = run(2, "followed")
    assert one == two
    for found in one.values():
        pairs = zip(found["schedules"], alone["1"]["schedules"], strict=True)
        for by_two, by_one in pairs:
            assert by_two == pytest.approx(by_one, rel=2e-3)
        for by_two, by_one in zip(found["terms"], alone["1"]["terms"], strict=True):
            assert by_two == pytest.approx(by_one, rel=5e-3)
        assert found["turned"] == pytest.approx(alone["1"]["turned"], rel=1e-3)
        assert found["layers"] == alone["1"]["layers"]
    moved = [step["loss.terms.kv_k.weight"] for step in one["1"]["schedules"]]
    assert moved[0] == 1 and len(set(moved)) > 2


def test_muon_of_two_processes_that_divide_its_state_is_that_of_one(run):
    """And goes on bit for bit; one process goes on from what two wrote."""
    ((one, two),) = run(2, "divided")
    for found in (one, two):
        assert found["same losses"] and found["same weights"]
        assert found["length"] == [3, 2]
    ((alone,),) = run(1, "divided")
    assert alone["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert alone["after two"] == pytest.approx(one["losses"][3:], rel=1e-4)


def test_two_processes_ask_whom_one_does_and_learn_the_same(run):
    """Fails when a rank chooses by its own numbers, or a mean is over its own texts."""
    ((alone,),) = run(1, "chosen")
    ((one, two),) = run(2, "chosen")
    for how, expected in alone.items():
        assert sorted([*one[how]["asked"], *two[how]["asked"]]) == expected["asked"]
        choices = {tuple(row) for _, row in expected["asked"]}
        assert choices == {(True, False), (False, True)}
        assert one[how]["terms"] == two[how]["terms"]
        for by_two, by_one in zip(one[how]["terms"], expected["terms"], strict=True):
            assert by_two == pytest.approx(by_one, rel=2e-3)
        assert one[how]["weights"] == two[how]["weights"]
        assert one[how]["weights"] == pytest.approx(expected["weights"], rel=1e-4)
