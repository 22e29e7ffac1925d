"""What lies in a run's ``student/``: the types and settings of where it came from."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from experiments.cli import main
from tests.composites import gemma3
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


def test_the_export_is_as_its_checkpoint_and_phases_lose_nothing(
    bf16, tiny_zoo, tmp_path
):
    changes = {
        "student": {"model": str(bf16)},
        "phases": ["dual", "multi_basic"],
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
    assert any(not torch.equal(t.float(), last[n]) for n, t in exported.items())
    settings = json.loads((run / "student" / "config.json").read_text())
    assert settings["dtype"] == "bfloat16"

    before = (phases[1] / "model.safetensors").stat().st_mtime_ns
    assert main(["train", config, "student.export_dtype=float32"]) == 0
    assert (phases[1] / "model.safetensors").stat().st_mtime_ns == before
    for name, tensor in weights(run / "student").items():
        assert torch.equal(tensor, last[name]), name


@pytest.mark.slow
def test_a_fresh_student_is_exported_with_its_models_type_and_settings(
    bf16, tiny_zoo, tmp_path
):
    (bf16 / "model.safetensors").unlink()
    student = {"model": str(bf16), "init": "fresh"}
    changes = {"student": student, "train": {"steps": 1}}
    assert main(["train", str(small_config(tmp_path, tiny_zoo, changes))]) == 0
    exported = tmp_path / "run" / "student"
    assert {t.dtype for t in weights(exported).values()} == {torch.bfloat16}
    kept = GenerationConfig.from_pretrained(exported)
    assert (kept.eos_token_id, kept.do_sample) == ([2, 1], True)


@pytest.mark.slow
def test_merged_updates_are_exported_in_the_type_that_was_asked_for(
    bf16, tiny_zoo, tmp_path
):
    pytest.importorskip("peft")
    student = {"model": str(bf16), "lora": {"rank": 2}, "export_dtype": "float16"}
    changes = {"student": student, "train": {"steps": 1}, "phases": ["multi_basic"]}
    assert main(["train", str(small_config(tmp_path, tiny_zoo, changes))]) == 0
    exported = weights(tmp_path / "run" / "student")
    assert exported.keys() == weights(bf16).keys()
    assert {t.dtype for t in exported.values()} == {torch.float16}


@pytest.mark.slow
def test_a_composite_learns_by_its_text_model_and_keeps_its_tower(tiny_zoo, tmp_path):
    """As student and teacher at once; its tower has a table of four positions."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_zoo["student"])
    folder = str(tmp_path / "gemma3")
    gemma3(len(tokenizer)).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    changes = {
        "student": {"model": folder},
        "teachers": {"gemma": {"model": folder}},
        "train": {"steps": 1, "weight_decay": 0.5},
        "phases": ["multi_basic"],
    }
    assert main(["train", str(small_config(tmp_path, tiny_zoo, changes))]) == 0
    before, after = weights(tmp_path / "gemma3"), weights(tmp_path / "run" / "student")
    assert before.keys() == after.keys()
    moved = {n for n, tensor in before.items() if not torch.equal(tensor, after[n])}
    assert moved and all("language_model" in name for name in moved)
