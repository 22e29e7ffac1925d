"""What lies in a run's ``student/``: the types and settings of where it came from."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

from experiments.cli import main
from experiments.run_dir import read_run
from tests.experiments.small_runs import small_config


@pytest.fixture
def bf16(tiny_zoo, tmp_path):
    """The tiny student as most checkpoints are: bfloat16, with several ends."""
    folder = shutil.copytree(tiny_zoo["student"], tmp_path / "bf16")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    GenerationConfig(eos_token_id=[2, 1], do_sample=True).save_pretrained(folder)
    return folder


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("init", ["checkpoint", "fresh"])
def test_the_export_is_as_its_checkpoint_and_phases_lose_nothing(
    bf16, tiny_zoo, tmp_path, init
):
    changes = {
        "student": {"model": str(bf16), "init": init},
        "phases": ["dual", "multi_basic"],
        "phase": {"multi_basic": {"teachers": {"min": 2}}},
        "train": {"steps": 1, "learning_rate": 1e-4},
    }
    config = str(small_config(tmp_path, tiny_zoo, changes))
    run = tmp_path / "run"
    assert main(["train", config]) == 0
    phases = [run / "phases" / n / "student" for n in ("1-dual", "2-multi_basic")]
    for phase in phases:
        assert {t.dtype for t in weights(phase).values()} == {torch.float32}
    last, exported = weights(phases[1]), weights(run / "student")
    for name, tensor in exported.items():
        assert torch.equal(tensor, last[name].bfloat16()), name
    assert any(not torch.equal(t, last[n].float()) for n, t in exported.items())
    settings = json.loads((run / "student" / "config.json").read_text())
    assert settings["dtype"] == "bfloat16"
    kept = GenerationConfig.from_pretrained(run / "student")
    assert (kept.eos_token_id, kept.do_sample) == ([2, 1], True)

    before = (phases[1] / "model.safetensors").stat().st_mtime_ns
    assert main(["train", config, "student.export_dtype=float32"]) == 0
    assert (phases[1] / "model.safetensors").stat().st_mtime_ns == before
    for name, tensor in weights(run / "student").items():
        assert torch.equal(tensor, last[name]), name
    assert read_run(run)
