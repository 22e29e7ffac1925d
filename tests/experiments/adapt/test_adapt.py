"""``mtkd adapt``: another vocabulary, trained as a run, kept with a manifest."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from experiments.adapt.plan import Request, config_of
from experiments.cli import main
from experiments.config.parsing import ConfigError
from experiments.record.metrics import Metrics
from student.checkpoint import read_complete
from teacher.loading.models import load_model
from teacher.output_head import vocabulary_digest
from teacher.packages.manifest import changed_files, read_manifest
from tests.experiments.small_runs import said, write_text

QUICK = (
    *("train.engine=torch", "train.batch_size=4", "train.calibration_samples=8"),
    *("data.max_length=32", "data.eval_samples=4", "train.log_every=1"),
)


@pytest.fixture
def words(tiny_zoo, tmp_path, monkeypatch):
    """The command on two tiny models, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    text = write_text(tmp_path / "text.txt")

    def make(model="qwen-code", *more, to="student"):
        line = ["adapt", str(tiny_zoo[model]), "--to", str(tiny_zoo[to])]
        return [*line, "--data", f"notes={text}", *QUICK, *more]

    return make


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_a_model_is_adapted_measured_and_goes_on_where_it_was_stopped(
    words, tiny_zoo, tmp_path, monkeypatch, capsys
):
    line = words("qwen-code", "--steps", "3")
    assert main([*line, "--out", "whole"]) == 0
    shown = capsys.readouterr().out
    assert "as it was" in shown and "after 3 steps" in shown
    whole = tmp_path / "whole"
    manifest = read_manifest(whole)
    assert not changed_files(whole, manifest.files)
    assert read_complete(whole, digests=True) is not None  # vouched for, all of it
    made = manifest.adaptation
    assert manifest.source == str(tiny_zoo["qwen-code"]) and made.steps == 3
    assert made.bits_adapted["notes"] < made.bits_given["notes"]
    assert made.bits_origin["notes"] > 0 and len(made.texts["train"]) == 64

    loaded, student = load_model(whole), load_model(tiny_zoo["student"])
    assert vocabulary_digest(loaded.tokenizer) == vocabulary_digest(student.tokenizer)
    assert loaded.model.config.vocab_size == student.model.config.vocab_size

    write = Metrics.write

    def stop_once(self, *args):
        write(self, *args)
        if args[2].get("step") == 2:
            monkeypatch.setattr(Metrics, "write", write)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Metrics, "write", stop_once)
    assert main([*line, "--out", "parts"]) == 75
    assert not (tmp_path / "parts").exists()
    assert main([*line, "--out", "parts"]) == 0
    first, second = weights(whole), weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_only_embeddings_may_learn_and_without_steps_nothing_does(words, tmp_path):
    assert main(words("neox-mixed", "--steps", "0", "--out", "rows")) == 0
    again = words("neox-mixed", "--steps", "2", "--train", "embeddings")
    assert main([*again, "--out", "learnt"]) == 0
    before, after = weights(tmp_path / "rows"), weights(tmp_path / "learnt")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"gpt_neox.embed_in.weight"}  # its head is tied to it


@pytest.mark.slow
def test_low_rank_updates_learn_beside_embeddings_and_are_merged(words, tmp_path):
    pytest.importorskip("peft")
    assert main(words("gpt2-prose", "--steps", "2", "--train", "lora")) == 0
    out = tmp_path / "adapted" / "gpt2-prose-to-student"
    given = weights(tmp_path / "runs" / "adapt-gpt2-prose-to-student" / "given")
    after = weights(out)
    moved = {name for name in given if not torch.equal(given[name], after[name])}
    assert "transformer.wte.weight" in moved and "transformer.wpe.weight" not in moved
    assert any(name.endswith("c_attn.weight") for name in moved)
    assert not any("ln_" in name for name in moved)


def test_terms_of_the_origin_go_along(words, tiny_zoo, tmp_path):
    import shutil

    from teacher.packages.manifest import write_manifest

    origin = tmp_path / "origin"
    shutil.copytree(tiny_zoo["qwen-code"], origin)
    (origin / "LICENSE.model").write_text("terms")
    terms = {"licence": "Some Terms", "redistributable": False}
    write_manifest(origin, title="O", source="o", conversion="none", **terms)
    line = words("qwen-code", "--steps", "0", "--out", "made")
    line[1] = str(origin)
    assert main(line) == 0
    manifest = read_manifest(tmp_path / "made")
    assert (manifest.licence, manifest.redistributable) == ("Some Terms", False)
    assert (tmp_path / "made" / "LICENSE.model").read_text() == "terms"
    assert "forbids handing them on" in (tmp_path / "made" / "NOTICE").read_text()


def test_what_cannot_be_adapted_is_said_before_anything_is_written(
    words, tmp_path, capsys
):
    (tmp_path / "there").mkdir()
    code, error = said(words("qwen-code", "--out", "there"), capsys)
    assert code == 2 and "there is there already; give another folder" in error
    code, error = said(words("bert-mixed", "--out", "x"), capsys)
    assert code == 2 and "only causal language models" in error
    code, error = said(words("qwen-code", "--out", "x", to="qwen-code"), capsys)
    assert code == 2 and "already; use it as it is" in error
    code, error = said([*words("qwen-code"), "student.init=fresh"], capsys)
    assert code == 2 and "student.init is not to be set here" in error
    left = {place.name for place in tmp_path.iterdir()}
    assert left == {"text.txt", "there"}  # no run's folder either


@pytest.mark.slow
def test_a_run_of_another_model_is_not_gone_on_with(words, tmp_path, capsys):
    assert main(words("qwen-code", "--steps", "0", "--out", "one")) == 0
    changed = words("gpt2-prose", "--steps", "0", "--out", "two")
    code, error = said([*changed, "run.name=adapt-one"], capsys)
    assert code == 2 and "holds a run that began with" in error
    manifest = json.loads((tmp_path / "one" / "mtkd-model.json").read_text())
    assert manifest["adaptation"]["run"] == "runs/adapt-one"


def test_a_setting_of_the_run_is_checked_as_in_any_config():
    request = Request(model="m", to="t", overrides=["train.step=3"])
    with pytest.raises(ConfigError, match=r"train\.step"):
        config_of(request)
    config = config_of(Request(model="m", to="a/b", parts="lora", steps=7))
    assert config.student.trained == "embeddings" and config.student.lora.rank == 16
    assert (config.train.steps, config.run.name) == (7, "adapt-m-to-b")
