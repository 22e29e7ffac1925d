"""Where the student's first weights come from."""

import os
import signal

import pytest
import torch
import yaml
from safetensors.torch import load_file

from experiments.assemble.models import Models
from experiments.cli import main
from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config
from experiments.record.metrics import Metrics
from teacher.loading import models as loading
from teacher.loading.models import load_model
from teacher.output_head import vocabulary_digest
from tests.experiments.small_runs import said, small_config

FRESH = {"student": {"init": "fresh"}, "train": {"steps": 3}}


@pytest.fixture
def first_weights(tiny_zoo):
    """The student that training starts from, as its weights by name."""

    def load(seed, init, source=None):
        section = {"model": str(tiny_zoo["student"]), "init": init}
        config = load_config({"run": {"seed": seed}, "student": section})
        model = Models(config, torch.device("cpu")).student(source)
        return dict(model.named_parameters())

    return load


def test_a_tokenizer_is_read_with_the_first_student_alone(tiny_zoo, monkeypatch):
    read, load = [], loading.load_tokenizer
    monkeypatch.setattr(
        loading, "load_tokenizer", lambda *words: read.append(words) or load(*words)
    )
    config = load_config({"student": {"model": str(tiny_zoo["student"])}})
    models = Models(config, torch.device("cpu"))
    models.student(None)
    models.student(tiny_zoo["student"])
    assert len(read) == 1


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_several_seeds_are_several_students_and_one_seed_is_one(first_weights):
    first = first_weights(0, "fresh")
    torch.manual_seed(7)
    assert equal(first, first_weights(0, "fresh"))
    assert not equal(first, first_weights(1, "fresh"))


def test_by_default_and_after_a_phase_the_folder_gives_the_weights(
    first_weights, tiny_zoo
):
    stored = load_file(tiny_zoo["student"] / "model.safetensors")
    kept = first_weights(1, "checkpoint")
    assert all(torch.equal(kept[name], stored[name]) for name in kept)
    assert equal(kept, first_weights(1, "fresh", tiny_zoo["student"]))


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_fresh_student(
    tiny_zoo, tmp_path, monkeypatch, capsys
):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert main(["train", str(small_config(whole, tiny_zoo, FRESH))]) == 0
    write = Metrics.write

    def write_and_signal(self, arm, phase, line, offset=0):
        write(self, arm, phase, line, offset)
        if line["kind"] == "train" and line["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = small_config(tmp_path, tiny_zoo, FRESH)
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", write_and_signal)
        code, message = said(["train", str(config)], capsys)
    assert code == 75, message
    assert said(["train", str(config), "--resume", "must"], capsys) == (0, "")
    exported = [f / "run" / "student" / "model.safetensors" for f in (whole, tmp_path)]
    assert exported[0].read_bytes() == exported[1].read_bytes()


def test_an_unknown_origin_is_refused_with_what_is_valid():
    with pytest.raises(ConfigError, match=r"student\.init.*new.*checkpoint.*fresh"):
        load_config(None, ["student.init=new"])


def test_a_fresh_student_may_have_a_teacher_s_vocabulary(tiny_zoo, tmp_path):
    changes = {
        "student": {"init": "fresh", "tokenizer": "qwen-code"},
        "teachers": {"qwen-code": {"model": str(tiny_zoo["qwen-code"])}},
        "output": {"kd": 1},
        "phases": ["single"],
    }
    config = small_config(tmp_path, tiny_zoo, changes)
    tree = yaml.safe_load(config.read_text())
    del tree["teachers"]["gpt2-prose"]
    config.write_text(yaml.safe_dump(tree))
    assert main(["train", str(config)]) == 0
    student = load_model(tmp_path / "run" / "student")
    teacher = load_model(tiny_zoo["qwen-code"])
    assert vocabulary_digest(student.tokenizer) == vocabulary_digest(teacher.tokenizer)
    sizes = [len(m.model.get_input_embeddings().weight) for m in (student, teacher)]
    assert sizes[0] == sizes[1] == student.model.config.vocab_size
    own = load_model(tiny_zoo["student"]).model.config
    assert student.model.config.hidden_size == own.hidden_size


def test_trained_weights_are_given_no_other_tokenizer():
    with pytest.raises(ConfigError, match=r"`mtkd adapt zoo:student --to gpt2` and"):
        load_config(None, ["student.tokenizer=gpt2"])
