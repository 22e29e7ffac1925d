"""A run that reads stored teachers learns what one with live teachers learns."""

import json
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from experiments.extraction.stored import same_tokens
from student.feed import Kitchen
from teacher.store import KVStore
from tests.experiments.small_runs import said, small_config

LEARN = {
    "data": {"train_samples": 20},
    "train": {"steps": 4, "checkpoint_every": 2, "calibration_samples": 8},
    "phase": {"all": {"loss": {"gamma_kl": 0, "outcome_every": 2}}},
}


@pytest.fixture
def run(tiny_zoo, tmp_path, capsys):
    """Train by name with overrides; the logged losses, step by step."""

    def train(name, *overrides):
        config = small_config(tmp_path, tiny_zoo, LEARN | {"store": place(tmp_path)})
        words = [str(config), f"run.name={name}", *overrides]
        assert said(["train", *words], capsys) == (0, "")
        return losses(tmp_path / name)

    return train


def place(folder: Path):
    return {"dir": str(folder / "kv"), "name": "kv", "shard_samples": 8}


def losses(folder: Path):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        row["terms"] | {"all": row["loss"]} for row in rows if row["kind"] == "train"
    ]


def extract(tmp_path, capsys, *overrides):
    words = [str(tmp_path / "config.yaml"), *overrides]
    assert said(["extract", *words], capsys) == (0, "")


def close(got, want, tolerance):
    assert len(got) == len(want) > 0
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for term, value in other.items():
            assert one[term] == pytest.approx(value, abs=tolerance), term


def test_live_and_stored_teachers_give_the_same_losses(run, tmp_path, capsys):
    live = run("live")
    extract(tmp_path, capsys, "store.encoding=float32")
    stored = run("stored", "store.read=true", "store.encoding=float32")
    close(stored, live, 1e-6)


@pytest.mark.slow
def test_narrow_encodings_give_losses_within_their_errors(run, tmp_path, capsys):
    live = run("live")
    for encoding in ("bfloat16", "int8"):
        words = [f"store.encoding={encoding}", f"store.name={encoding}"]
        extract(tmp_path, capsys, *words)
        plan = KVStore(tmp_path / "kv" / encoding / "gpt2-prose").plan
        error = max(plan.facts["errors"][part] for part in "kv")
        stored = run(encoding, "store.read=true", *words)
        # Squared distances of standardised features of size 1 move by twice the error.
        close(stored, live, max(6 * error, 1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["aligned", "adapted", "fused"])
def test_every_form_teaches(run, tmp_path, capsys, form):
    # Means by position are those of the teacher's own tokens, which are gone here.
    words = [f"store.form={form}", "store.encoding=float32"]
    words.append("align.position_means=keep")
    live = run("live", "align.position_means=keep")
    extract(tmp_path, capsys, *words)
    stored = run(form, "store.read=true", *words)
    if form == "aligned":  # the same numbers, brought over earlier
        close(stored, live, 1e-5)
    assert stored[-1]["all"] < stored[0]["all"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_the_store_bit_for_bit(run, tmp_path, capsys):
    run("live", "train.steps=1")
    extract(tmp_path, capsys, "store.encoding=int8")
    words = ["store.read=true", "store.encoding=int8"]
    whole = run("whole", *words)
    from experiments.metrics import Metrics

    real = Metrics.write

    def stop_at_3(self, arm, phase, line, offset=0):
        real(self, arm, phase, line, offset)
        if line["kind"] == "train" and line["step"] == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "write", stop_at_3)
        config = str(tmp_path / "config.yaml")
        assert main(["train", config, "run.name=halves", *words]) == 75
    assert run("halves", *words) == whole
    weights = [
        tmp_path / n / "student" / "model.safetensors" for n in ("whole", "halves")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_a_store_cannot_give_is_refused_before_any_work(
    tmp_path, tiny_zoo, capsys
):
    config = str(small_config(tmp_path, tiny_zoo, LEARN | {"store": place(tmp_path)}))
    read = ["train", config, "run.name=r", "store.read=true"]
    code, message = said(read, capsys)
    assert code == 2 and "run `mtkd extract` with this config first" in message
    extract(tmp_path, capsys)
    for override, words in (
        ("phase.all.loss.gamma_kl=0.1", "stores hold no attention"),
        ("phase.all.fuse.fusion_method=similarity", "holds no losses of its own"),
        ("data.max_length=24", "max_length: stored 32, config 24"),
        (
            "teachers.qwen-code.dtype=bfloat16",
            "dtype: stored 'auto', config 'bfloat16'",
        ),
        (f"teachers.qwen-code.model={tiny_zoo['neox-mixed']}", "weights: stored"),
        ("run.seed=5", "does not hold text"),
        ("store.form=adapted", "form: stored 'raw', config 'adapted'"),
    ):
        code, message = said([*read, override], capsys)
        assert code == 2 and words in message, (override, message)


def test_ranks_read_disjoint_parts_and_epochs_other_orders():
    def numbers(rank, world, first, count=12):
        kitchen = Kitchen(
            samples=list(range(count)),
            encode=None,
            views=None,
            seed=0,
            rows=0,
            batch_size=2,
            first_sample=first,
            device=torch.device("cpu"),
            rank=rank,
            world_size=world,
        )
        from student.data_order import sample_indices

        start = kitchen.first_sample
        return [
            index
            for step in range(count // (2 * world))
            for index in sample_indices(count, 0, start + step * 2 * world, 2, rank)
        ]

    parts = [numbers(rank, 2, 0) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(12))
    assert not set(parts[0]) & set(parts[1])
    assert numbers(0, 1, 0) != numbers(0, 1, 12)


def test_kv_on_the_students_tokens_stay_where_they_are():
    covered = torch.tensor([[True, False, True], [False, True, True]])
    alignment = same_tokens(covered)
    assert alignment.covered.equal(covered)
    x = torch.randn(2, 2, 3, 5)
    assert alignment.apply(x).equal(x * covered[..., None])
