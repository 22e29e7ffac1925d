"""Blocks compiled in place compute as before, and what cannot be is refused by name."""

import copy
import os
import signal
import threading
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from align.errors import InputError
from align.views import Injection
from experiments.cli import main
from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config
from experiments.record.metrics import Metrics
from experiments.sources.compiled import (
    GRAPHS,
    compilable,
    compile_blocks,
    compile_model,
    unless_hooked,
)
from experiments.sources.named import sources_of
from student.config import LoraConfig
from student.lora import add_adapters
from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import load_model
from tests.experiments.small_runs import small_config


@pytest.fixture
def student():
    """One layer: each takes seconds to compile."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).train()
    yield model
    torch._dynamo.reset()


@pytest.mark.slow
def test_what_is_compiled_are_the_largest_parts_beside_attention(tiny_zoo):
    kinds = {
        name: {type(part).__name__ for part in compilable(load_model(path).model)}
        for name, path in tiny_zoo.items()
        if name in ("student", "gpt2-prose", "bert-mixed")
    }
    assert kinds["student"] == {"LlamaMLP", "LlamaRMSNorm"}
    assert kinds["gpt2-prose"] == {"GPT2MLP"}
    assert kinds["bert-mixed"] == {"BertIntermediate", "BertOutput"}


def test_where_there_is_nothing_it_says_so():
    sizes = {"hidden_size": 8, "ffn_dim": 8, "num_attention_heads": 2}
    config = OPTConfig(
        vocab_size=8, num_hidden_layers=1, word_embed_proj_dim=8, **sizes
    )
    with pytest.raises(InputError, match="the blocks of OPTForCausalLM hold nothing"):
        compile_blocks(OPTForCausalLM(config))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"train": {"compile": True, "zero_stage": 3}}, "zero_stage=3 parts them"),
        ({"teachers": {"a": {"model": "x", "compile": True, "shard": True}}}, "shard"),
        (
            {"teachers": {"a": {"model": "x", "compile": True, "quantise": "int8"}}},
            "quantise=int8",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, what):
    with pytest.raises(ConfigError, match=rf"compile.*{what}"):
        load_config(settings)


def test_a_teacher_that_is_the_student_or_elsewhere_is_not_compiled():
    for model in ("student:start", "server:http://localhost:1/v1"):
        entry = {"model": model, "compile": True}
        if model != "student:start":
            entry["options"] = {"tokenizer": "zoo:gpt2-prose"}
        with pytest.raises(ConfigError, match=r"teachers\.a\.compile is True, but"):
            sources_of(load_config({"teachers": {"a": entry}}))


def lesson(capture, ids, inject=None):
    """Loss, keys and values, and gradients by name."""
    captured = capture(ids, torch.ones_like(ids, dtype=torch.bool), logits=True)
    loss = captured.logits.float().square().mean() + captured.kv.k.square().mean()
    if inject is not None:
        ones = torch.ones_like(ids, dtype=torch.bool)
        more = capture(ids, ones, logits=True, layers=[], inject=inject)
        loss = loss + more.logits.float().square().mean()
    loss.backward()
    grads = {
        name: p.grad.clone()
        for name, p in capture.model.named_parameters()
        if p.grad is not None
    }
    capture.model.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), "k": captured.kv.k, "v": captured.kv.v, **grads}


def test_a_part_that_is_listened_to_runs_as_it_did_from_then_on():
    part, heard = nn.Sequential(nn.Linear(2, 2)), []
    part._compiled_call_impl = unless_hooked(part, lambda x: x * 0)
    x = torch.ones(1, 2)
    assert not part(x).any()
    hook = part[0].register_forward_hook(lambda *given: heard.append(given))
    assert part(x).any()
    assert len(heard) == 1
    hook.remove()
    assert part(x).any()  # as a backward pass recomputes it


@pytest.mark.slow
def test_states_at_the_norms_of_a_compiled_model_are_those_of_the_model(tiny_zoo):
    """BERT's norms make what comes out of a layer, within what is compiled; as many
    graphs are allowed in another thread, in which teachers read ahead."""
    model = load_model(tiny_zoo["bert-mixed"]).model.eval().requires_grad_(False)
    ids = torch.arange(18).view(2, 9)
    mask, states = ids >= 0, {"hidden", "residual", "normed"}
    want = KVCapture(copy.deepcopy(model))(ids, mask, states=states).states
    capture = KVCapture(model)
    compile_model(capture, "teachers.a.compile", backend="eager")
    limits = []

    def read():
        capture(ids, mask)
        limits.append(torch._dynamo.config.recompile_limit)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert limits == [GRAPHS]
    got = capture(ids, mask, states=states).states
    torch._dynamo.reset()
    for state in states:
        torch.testing.assert_close(got[state], want[state])
    assert not torch.allclose(want["residual"], want["hidden"])


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(student, capsys):
    """Captured, injected into and under checkpointing; no other sizes, no other graph.

    By aot_eager, which traces forward and backward as Inductor is given them.
    """
    add_adapters(student, LoraConfig(rank=2, alpha=4), 0)
    for name, p in student.named_parameters():
        p.requires_grad_(True)
        if "lora_B" in name:
            nn.init.normal_(p)
    plain = copy.deepcopy(student)
    names = list(student.state_dict())
    state = torch.get_rng_state()
    capture, other = KVCapture(student), KVCapture(plain)
    compile_model(capture, "train.compile", backend="aot_eager")
    assert "train.compile: 3 parts (LlamaMLP, LlamaRMSNorm) comp" in (
        capsys.readouterr().err
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert list(student.state_dict()) == names
    assert all(p.grad is None for p in student.parameters())
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    gate = torch.full((1,), 0.5)
    for checkpointing, shape in ((False, (2, 9)), (True, (3, 5))):
        ids = torch.arange(shape[0] * shape[1]).view(shape)
        if checkpointing:
            for model in (student, plain):
                model.gradient_checkpointing_enable({"use_reentrant": False})
        with torch.no_grad():
            kv = other(ids, torch.ones_like(ids, dtype=torch.bool)).kv
        inject = Injection(kv, [0], torch.ones_like(ids, dtype=torch.bool), gate)
        got, want = lesson(capture, ids, inject), lesson(other, ids, inject)
        assert got.keys() == want.keys()
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=1e-5, atol=1e-7)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    student.load_state_dict(plain.state_dict())


@pytest.mark.slow
def test_inductor_rounds_a_teacher_little_and_a_failure_is_told(student, capsys):
    student.eval().requires_grad_(False)
    capture = KVCapture(student)

    def broken(graph, inputs):
        raise OSError("no compiler")

    with pytest.raises(InputError, match=r"teachers\.a\.compile: .*cannot be compiled"):
        compile_model(capture, "teachers.a.compile", backend=broken)
    ids = torch.arange(12)[None]
    captured = capture(ids, ids >= 0, logits=True)  # as it was
    torch._dynamo.reset()
    student.model.layers[0].input_layernorm = nn.Identity()
    student.model.layers[0].post_attention_layernorm = nn.Identity()
    compile_model(KVCapture(student), "teachers.a.compile")
    assert "1 parts (LlamaMLP) compiled in" in capsys.readouterr().err
    assert captured.logits.isfinite().all()


@pytest.mark.slow
def test_a_compiled_run_stopped_and_resumed_equals_an_undisturbed_one(
    tiny_zoo, tmp_path, monkeypatch
):
    write = Metrics.write

    def write_and_signal(self, arm, phase, line, offset=0):
        write(self, arm, phase, line, offset)
        if (line["kind"], line.get("step")) == ("train", 1):
            os.kill(os.getpid(), signal.SIGTERM)

    traced = partial(compile_model, backend="aot_eager")
    monkeypatch.setattr("experiments.run.phase.compile_model", traced)
    train = {"steps": 2, "log_every": 1, "compile": True}
    changes = {"phases": ["dual"], "train": train}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = str(small_config(tmp_path / "whole", tiny_zoo, changes))
    stopped = str(small_config(tmp_path / "stopped", tiny_zoo, changes))
    assert main(["train", whole]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "write", write_and_signal)
        assert main(["train", stopped]) == 75
    assert main(["train", stopped]) == 0
    exported = [
        (tmp_path / name / "run" / "student" / "model.safetensors").read_bytes()
        for name in ("whole", "stopped")
    ]
    assert exported[0] == exported[1]
    names = load_file(tmp_path / "whole/run/student/model.safetensors").keys()
    assert names == load_file(tiny_zoo["student"] / "model.safetensors").keys()
