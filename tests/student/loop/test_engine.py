"""One optimiser step, the same whichever way it is driven."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from align.errors import InputError
from student.config import LossConfig, TrainConfig
from student.loop import engine as engine_module
from student.loop.engine import (
    Engine,
    OtherProcessError,
    parameter_groups,
)
from student.loop.launch import (
    LAUNCH_VARIABLES,
    MEETING,
    assert_whole_world,
    deepspeed_config,
)
from student.loop.trainer import Job, train_phase
from tests.listening import listening, needs_proc
from tests.student.watching import Watching

pytestmark = pytest.mark.edges

BASE = TrainConfig(steps=4, batch_size=2, engine="torch", log_every=1)
LOSS = LossConfig(outcome_every=2)


def train(school, engine, config, steps=4, kind="projector"):
    """Losses of every step, and all weights after the last."""
    torch.manual_seed(0)
    made = school.lesson(kind, loss=LOSS, routed=True)
    lines = []
    job = Job(
        samples=school.samples[:16],
        encode=school.encode,
        views=made.panel,
        steps=steps,
        seed=0,
        observer=Watching(lines),
    )
    assert train_phase(made.distiller, engine, job, config) == steps
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    return losses, {n: p.detach().clone() for n, p in made.distiller.named_parameters()}


@pytest.mark.parametrize(
    ("name", "stage"), [("torch", 0), *(("deepspeed", stage) for stage in range(4))]
)
def test_the_norm_of_the_gradient_is_logged_as_it_was_before_clipping(
    school, start_engine, name, stage
):
    config = replace(
        BASE, engine=name, zero_stage=stage, steps=1, max_grad_norm=1e-3, grad_accum=2
    )
    lesson = school.lesson(None)
    batches: list = []

    def encode(texts):
        batches.append(school.encode(texts))
        return batches[-1]

    logged: list[dict] = []
    job = Job(
        samples=school.samples[:16],
        encode=encode,
        views=None,
        steps=1,
        seed=0,
        observer=Watching(logged),
    )
    train_phase(lesson.distiller, start_engine(config), job, config)
    fresh = school.lesson(None)
    fresh.distiller.train()
    assert len(batches) == 2
    for batch in batches:  # of equal length, so that the mean is of two halves
        fresh.run(batch).loss.div(2).backward()
    squares = [p.grad.square().sum() for p in fresh.model.parameters()]
    expected = float(torch.stack(squares).sum().sqrt())
    assert expected > 100 * config.max_grad_norm
    assert logged[0]["grad_norm"] == pytest.approx(expected, rel=1e-4)


def test_plain_torch_and_all_deepspeed_stages_train_the_same(school, start_engine):
    """Fails when the torch engine leaves parameters without a gradient out of a step:
    adapters and gates would rest between two outcome passes."""
    expected, weights = train(school, start_engine(BASE), BASE)
    assert len(set(expected)) == len(expected) == 4
    for stage in (0, 1, 2, 3):
        config = replace(BASE, engine="deepspeed", zero_stage=stage)
        losses, found = train(school, start_engine(config), config)
        assert losses == pytest.approx(expected, rel=1e-5), stage
        for name, weight in weights.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_an_offloaded_optimiser_takes_the_same_steps(school, start_engine, monkeypatch):
    """On the CPU, where it is of no use: what is offloaded there stays where it was."""
    monkeypatch.setattr(engine_module, "_check_hardware", lambda config: None)
    expected, _ = train(school, start_engine(BASE), BASE)
    for stage in (1, 2, 3):
        settings = {"engine": "deepspeed", "zero_stage": stage, "offload": "optimizer"}
        config = replace(BASE, **settings)
        losses, _ = train(school, start_engine(config), config)
        assert losses == pytest.approx(expected, rel=1e-5), stage


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_accumulating_two_passes_of_four_equals_one_pass_of_eight(
    school, start_engine, engine
):
    whole = replace(BASE, engine=engine, batch_size=8)
    halves = replace(whole, batch_size=4, grad_accum=2)
    moved = []
    start = {n: p.detach().clone() for n, p in school.student().named_parameters()}
    for config in (whole, halves):
        # CE alone: all samples fill MAX_LENGTH, so a pass averages over as many tokens
        _, weights = train(school, start_engine(config), config, 2, kind=None)
        parts = [weights[f"student.{n}"] - p for n, p in start.items()]
        moved.append(torch.cat([x.flatten() for x in parts]))
    # AdamW's first steps are signs: compare the whole way, not every weight
    assert (moved[0] - moved[1]).norm() < 1e-2 * moved[0].norm()


def test_one_engine_prepares_one_distiller_after_another(school, start_engine):
    config = replace(BASE, engine="deepspeed")
    engine = start_engine(config)
    first, _ = train(school, engine, config, steps=2)
    second, _ = train(school, engine, config, steps=2)
    assert first == second


def test_plain_torch_trains_under_a_launchers_variables_too(
    school, start_engine, monkeypatch
):
    """Fails when DDP is not told that steps leave parameters out."""
    expected, _ = train(school, start_engine(BASE), BASE, steps=3)
    launched = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    losses, _ = train(school, start_engine(BASE), BASE, steps=3)
    assert losses == pytest.approx(expected, rel=1e-5)


@needs_proc
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_one_process_listens_on_nothing(school, start_engine, engine):
    before, config = listening(), replace(BASE, engine=engine)
    train(school, start_engine(config), config, steps=1)
    assert listening() <= before


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_a_bridge_that_no_loss_reaches_stays_as_calibrated(
    school, start_engine, engine, only
):
    """Fact 10. Fails when bridges get weight decay."""
    config = replace(BASE, engine=engine, weight_decay=0.5)
    made = school.lesson("adapter", loss=only(lambda_k=1.0, delta_ce=1.0))
    before = {n: p.detach().clone() for n, p in made.bridge.named_parameters()}
    job = Job(
        samples=school.samples[:16],
        encode=school.encode,
        views=made.panel,
        steps=3,
        seed=0,
    )
    train_phase(made.distiller, start_engine(config), job, config)
    for name, parameter in made.bridge.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)


def test_gradients_are_clipped_by_both_engines(school, start_engine):
    moved = []
    for engine in ("torch", "deepspeed"):
        config = replace(BASE, engine=engine, max_grad_norm=1e-7, weight_decay=0.0)
        losses, _ = train(school, start_engine(config), config, steps=3)
        moved.append(losses)
    # AdamW's epsilon (1e-8) shows at such gradients: clipping is felt, and equal.
    assert moved[0] == pytest.approx(moved[1], rel=1e-5)


def test_the_student_comes_first_and_only_its_matrices_decay(school):
    made = school.lesson("projector", routed=True)
    config = TrainConfig(
        learning_rate=1.0, bridge_learning_rate=2.0, router_learning_rate=3.0
    )
    groups = parameter_groups(made.distiller, config)
    assert groups[0]["lr"] == 1.0
    assert sum(len(g["params"]) for g in groups) == len(
        list(made.distiller.parameters())
    )
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    for name, parameter in made.distiller.named_parameters():
        part = name.split(".")[0]
        matrix = parameter.dim() > 1 and part != "bridge"
        assert decay[id(parameter)] == (0.01 if matrix else 0.0), name
        assert (
            rate[id(parameter)] == {"student": 1.0, "bridge": 2.0, "weigher": 3.0}[part]
        )


def test_deepspeed_is_told_what_the_config_says():
    config = TrainConfig(batch_size=3, grad_accum=5, zero_stage=2, max_grad_norm=0.7)
    told = deepspeed_config(config, 5)
    assert told["train_micro_batch_size_per_gpu"] == 3
    assert told["gradient_accumulation_steps"] == 5
    assert told["zero_optimization"] == {"stage": 2}
    assert told["gradient_clipping"] == 0.7
    assert "bf16" not in told and "fp16" not in told


def test_fp16_without_a_gpu_says_what_to_use():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=r"fp16 needs a GPU.*bf16"):
        Engine(TrainConfig(fp16=True, engine="torch"))
    with pytest.raises(ValueError, match=r"train\.tf32 needs a GPU.*leave it out"):
        Engine(TrainConfig(tf32=True, engine="torch"))


def test_offloading_without_a_gpu_says_what_to_set():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=r"no GPU is visible; set train\.offload=none"):
        Engine(TrainConfig(offload="optimizer"))
    with pytest.raises(
        ValueError, match=r"train\.offload=optimizer needs .*zero_stage"
    ):
        TrainConfig(offload="optimizer", zero_stage=0)


def test_processes_that_do_not_see_each_other_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="WORLD_SIZE=2, but accelerate sees 1"):
        assert_whole_world(1)


@pytest.mark.slow
def test_two_processes_share_a_step_and_no_sample(warm, tmp_path: Path):
    launch = {MEETING: str(tmp_path / "meeting"), "WORLD_SIZE": "2"}
    launch["LOCAL_WORLD_SIZE"] = "2"
    started = [
        warm.start(
            "tests.student.two_ranks:main",
            str(tmp_path),
            log=tmp_path / "log.txt",
            environ={**launch, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(timeout=280) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], (tmp_path / "log.txt").read_text()[-3000:]
    one, two = (json.loads((tmp_path / f"{r}.json").read_text()) for r in (0, 1))
    assert one["world"] == two["world"] == 2
    assert (one["main"], two["main"]) == (True, False)
    assert not set(one["read"]) & set(two["read"])
    assert sorted(one["read"] + two["read"]) == list(range(24))
    assert one["weight"] == two["weight"] != 0  # ranks agree after every step
    assert one["total"] == two["total"] == [1.0, 4.0]
    assert one["any"] and two["any"] and not one["none"]


def test_a_closed_engine_leaves_no_launch_variables_to_later_processes(monkeypatch):
    for name in LAUNCH_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "29511")
    Engine(TrainConfig(batch_size=1)).close()
    left = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    assert left == {**dict.fromkeys(LAUNCH_VARIABLES), "MASTER_PORT": "29511"}


def test_a_closed_engine_leaves_linear_maps_as_they_were(school, start_engine):
    before = torch.nn.functional.linear
    config = replace(BASE, engine="deepspeed", zero_stage=3, steps=1)
    some = {"samples": school.samples[:4], "encode": school.encode, "views": None}
    engine, job = start_engine(config), Job(**some, steps=1, seed=0)
    train_phase(school.lesson(None).distiller, engine, job, config)
    assert torch.nn.functional.linear is not before  # DeepSpeed's own
    start_engine(BASE)  # closes the other
    assert torch.nn.functional.linear is before


@pytest.mark.parametrize(
    ("theirs", "code"),
    [(("train.steps is wrong", 2), 2), (("IndexError", 1), 1)],
    ids=["the user's", "a program's"],
)
def test_what_another_process_fails_with_ends_this_one_alike(theirs, code):
    class Second(Engine):  # of two; the first failed
        world_size, is_main = 2, False

        def __init__(self):
            pass

        def gather(self, value):
            return [theirs, value]

    with pytest.raises(OtherProcessError) as failed:
        Second().together(lambda: None)
    assert str(failed.value) == f"process 0: {theirs[0]}"
    assert failed.value.exit_code == code


def test_a_process_that_fails_itself_raises_its_own_error():
    class Second(Engine):
        world_size, is_main = 2, False

        def __init__(self):
            pass

        def gather(self, value):
            assert value == ("list index out of range", 1)
            return [("something else", 2), value]

    with pytest.raises(IndexError):
        Second().together(lambda: [][0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tf32": True},
            r"tf32 changes nothing on Old \(compute capability \(7, 5\)\)",
        ),
        ({"bf16": True}, r"bf16 would be emulated on Old .*use train\.fp16=true, or"),
        ({"fp16": True}, None),
        ({"bf16": "auto"}, None),
    ],
)
def test_what_a_gpu_lacks_is_refused(monkeypatch, settings, message):
    answers = {
        "is_available": True,
        "get_device_capability": (7, 5),
        "get_device_name": "Old",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    has = lambda including_emulation: including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", has)
    config = replace(BASE, **settings)
    if message is None:
        engine_module._check_hardware(config)
    else:
        with pytest.raises(InputError, match=message):
            engine_module._check_hardware(config)


def test_groups_with_copies_of_weights_reach_deepspeed_and_are_checked(monkeypatch):
    config = TrainConfig(zero_stage=3, zero_hpz_partition_size=4)
    zero = deepspeed_config(config, 1)["zero_optimization"]
    assert zero == {"stage": 3, "zero_hpz_partition_size": 4}
    assert deepspeed_config(TrainConfig(), 1)["zero_optimization"] == {"stage": 1}
    with pytest.raises(ValueError, match="engine=deepspeed with it"):
        TrainConfig(zero_stage=2, zero_hpz_partition_size=4)
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(ValueError, match="does not divide the 6 processes"):
        Engine(config)
