"""What is said beforehand is what comes of it."""

import json
import shutil
from collections import namedtuple

import pytest

from experiments.cli import main
from experiments.config import load_config
from experiments.extraction.estimate import estimate, store_bytes
from teacher.store import KVStore
from tests.experiments.small_runs import said, small_config


@pytest.fixture
def config(tiny_zoo, tmp_path):
    store = {"dir": str(tmp_path / "kv"), "shard_samples": 16, "encoding": "int8"}
    data = {"train_samples": 60}
    return str(small_config(tmp_path, tiny_zoo, {"store": store, "data": data}))


def tensor_bytes(folder):
    """Of a store's data files, headers left out."""
    total = 0
    for file in folder.glob("kv-*.safetensors"):
        with file.open("rb") as opened:
            header = 8 + int.from_bytes(opened.read(8), "little")
        total += file.stat().st_size - header
    return total


def test_the_disk_is_what_was_said(config, tmp_path, capsys):
    found = estimate(load_config(config))
    assert said(["extract", config], capsys) == (0, "")
    for needs in found.stores:
        folder = tmp_path / "kv" / "run" / needs.name
        store = KVStore(folder)
        assert needs.tokens == pytest.approx(store.manifest.tokens, rel=0.15)
        assert needs.disk == pytest.approx(tensor_bytes(folder), rel=0.15)
        lengths = [sample.tokens for sample in store.samples]
        assert store_bytes(store.plan, lengths) == tensor_bytes(folder)  # exactly
        assert needs.break_even == needs.bytes_per_token * needs.tokens_per_second
    assert found.warnings == []
    # AdamW keeps two moments beside each weight and gradient.
    memory = found.memory
    assert memory["optimiser"] == 2 * memory["gradients"]
    assert min(memory.values()) > 0


def test_what_does_not_fit_is_warned_of_with_settings_that_make_it_fit(
    config, monkeypatch, capsys
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 0, 1000))
    monkeypatch.setattr("experiments.extraction.estimate._device_memory", lambda: 4096)
    assert main(["estimate", config]) == 0
    shown = capsys.readouterr().out
    assert "warning: the stores need" in shown and "store.form=adapted" in shown
    assert "warning: training needs about" in shown
    assert "train.gradient_checkpointing=true" in shown
    assert main(["estimate", config, "--json", "--processes", "4"]) == 0
    four = json.loads(capsys.readouterr().out)["memory"]
    assert (
        four["optimiser"] == 2 * four["gradients"]
    )  # the torch engine divides nothing
    assert main(["estimate", config, "--json", "train.engine=deepspeed"]) == 0
    one = json.loads(capsys.readouterr().out)["memory"]
    words = ["--json", "--processes", "4", "train.engine=deepspeed"]
    assert main(["estimate", config, *words]) == 0
    divided = json.loads(capsys.readouterr().out)["memory"]
    assert divided["optimiser"] == one["optimiser"] // 4
    assert divided["gradients"] == one["gradients"]  # ZeRO 1 divides the optimiser
