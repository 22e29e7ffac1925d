"""Students whose frozen weights are quantised and whose updates are trained."""

import json
import os
import re
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from experiments.cli import main
from experiments.config.parsing import merge
from experiments.config.tree import load_config
from experiments.record.metrics import Metrics
from tests.experiments.small_runs import said, small_config

CHANGES = {
    "student": {"quantise": "int4", "lora": {"rank": 64, "dropout": 0.1}},
    "phases": ["dual", "routing"],
    "phase": {"routing": {"teachers": {"min": 2}, "loss": {"outcome_every": 2}}},
    "train": {"steps": 3, "optimizer": "adamw_8bit", "learning_rate": 0.01},
    "output": {"likelihood": 0.5},
}
STOPPED = 75


def weights(run):
    """The bytes of every student, whole and updates alone."""
    found = sorted(run.rglob("*.safetensors"))
    return {str(file.relative_to(run)): file.read_bytes() for file in found}


@pytest.fixture
def run(tiny_zoo, tmp_path):
    """Train with some changes in a folder of their own; gives the run's folder."""

    def train(name="run", changes=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = small_config(folder, tiny_zoo, merge(CHANGES, changes or {}))
        return main(["train", str(config)]), folder / "run"

    return train


@pytest.mark.slow
def test_a_quantised_student_resumes_bit_for_bit_and_exports_plain_weights(
    run, monkeypatch, tiny_zoo
):
    code, undisturbed = run("undisturbed")
    assert code == 0
    write = Metrics.write

    def write_and_signal(self, arm, phase, line, offset=0):
        write(self, arm, phase, line, offset)
        if (phase, line["kind"], line.get("step")) == ("routing", "train", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", write_and_signal)
        code, again = run("stopped")
    assert code == STOPPED
    (checkpoint,) = again.rglob("step-00000002/state-00000.safetensors")
    kept = load_file(checkpoint)
    trained = {name for name in kept if name.startswith("weight/student.")}
    assert trained and all(".lora_" in name for name in trained)
    assert any(name.startswith("absmax1/") for name in kept)
    assert run("stopped")[0] == 0
    assert weights(undisturbed) == weights(again)

    before = load_file(tiny_zoo["student"] / "model.safetensors")
    first, last = (
        load_file(folder / "student" / "model.safetensors")
        for folder in (undisturbed / "phases" / "1-dual", undisturbed)
    )
    assert before.keys() == last.keys()
    moved = {name for name in last if not torch.equal(before[name], last[name])}
    assert moved and all("_proj" in name for name in moved)
    assert any(not torch.equal(first[name], last[name]) for name in moved)


@pytest.mark.slow
def test_the_export_is_the_base_with_the_updates_and_needs_no_peft(
    run, monkeypatch, tiny_zoo
):
    from peft import PeftModel

    code, folder = run(changes={"phases": ["dual"], "train": {"optimizer": "adamw"}})
    assert code == 0
    ids = torch.arange(12)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_zoo["student"])
    with torch.no_grad():
        plain = base(ids).logits
        both = PeftModel.from_pretrained(base, folder / "student" / "adapter").eval()
        expected = both(ids).logits
        monkeypatch.setitem(sys.modules, "peft", None)
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)
        student = AutoModelForCausalLM.from_pretrained(folder / "student")
        found = student(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["student.lora.rank=0"], "set student.lora.rank=16.*or student.quantise=none"),
        (["student.quantise=int3"], "student.quantise is 'int3'.*'int8', 'int4'"),
        (["student.lora.targets=[qq_proj]"], "names 'qq_proj'.*they are .*q_proj"),
        (
            ["train.engine=deepspeed", "train.zero_stage=3", "train.optimizer=adamw"],
            "does not go with train.zero_stage=3.*train.zero_stage=2 or less",
        ),
        (
            ["train.engine=deepspeed"],
            "adamw_8bit scales blocks.*set train.zero_stage=0, or",
        ),
        (["train.optimizer=sgd"], "train.optimizer is 'sgd'; give one of 'adamw', 'ad"),
        (["student.lora.alpha=0"], "student.lora.alpha is 0; give a number > 0"),
        (["phase.dual.train.optimizer=adamw"], "train.optimizer differs between"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    words, message, tiny_zoo, tmp_path, capsys
):
    config = str(small_config(tmp_path, tiny_zoo, CHANGES))
    code, shown = said(["train", config, *words], capsys)
    assert code == 2
    assert re.search(message, shown), shown
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_a_store_knows_how_its_teachers_were_quantised(tiny_zoo, tmp_path, capsys):
    teacher = {"gpt2-prose": {"quantise": "int8"}}
    config = str(small_config(tmp_path, tiny_zoo, {"teachers": teacher}))
    store = f"store.dir={tmp_path}/kv"
    assert main(["extract", config, store]) == 0
    read = ["train", config, store, "store.read=true", "loss.gamma_kl=0"]
    read += ["loss.router_signal=outcome", "train.steps=1"]
    code, shown = said([*read, "teachers.gpt2-prose.quantise=none"], capsys)
    assert code == 2 and "dtype: stored 'auto, linear layers in int8'" in shown, shown
    assert said(read, capsys)[0] == 0


@pytest.mark.slow
def test_runs_from_before_these_settings_go_on(tiny_zoo, tmp_path):
    config = str(small_config(tmp_path, tiny_zoo))
    assert main(["train", config]) == 0
    record = tmp_path / "run" / "phases" / "1-dual.settings.json"
    found = json.loads(record.read_text())
    assert not {"lora", "quantise"} & found["student"].keys()
    assert "optimizer" not in found["phases"]["1-dual"]["train"]
    assert load_config(config).student.lora.rank == 0
