"""Low-rank updates: what they change, what they cost, how they are kept."""

import copy
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from student.config import LoraConfig, LossConfig, TrainConfig
from student.loop.trainer import Job, train_phase
from student.lora import (
    add_adapters,
    load_adapter,
    merge_adapters,
    save_adapter,
)
from student.trained import train_embeddings
from teacher import KVCapture
from teacher.loading.quantise import quantise
from tests.student.watching import Watching

LORA = LoraConfig(rank=4, alpha=8)


def gpt2():
    torch.manual_seed(0)
    size = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    special = dict.fromkeys(["bos_token_id", "eos_token_id"], 1)
    return AutoModelForCausalLM.from_config(GPT2Config(**size, **special))


def trained(model, seed=0):
    """Give updates numbers, as training does."""
    add_adapters(model, LORA, seed)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return model.eval()


def test_a_student_starts_as_it_was_and_only_its_updates_move(school):
    plain = school.student().eval()
    adapted = copy.deepcopy(plain)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    add_adapters(adapted, LORA, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    batch = school.batch()
    first, found = (
        KVCapture(model)(batch.ids, batch.mask, logits=True)
        for model in (plain, adapted)
    )
    assert torch.equal(first.logits, found.logits)
    (found.kv.k.square().sum() + found.logits.square().sum()).backward()
    moving = {n for n, p in adapted.named_parameters() if p.grad is not None}
    assert moving == {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert moving and all(".lora_" in name for name in moving)
    assert {name.split(".")[4] for name in moving} >= {"q_proj", "k_proj", "down_proj"}
    assert not any(".lora_" in name for name, _ in plain.named_parameters())


def test_the_seed_decides_the_updates(school):
    def first(seed):
        model = school.student()
        add_adapters(model, LORA, seed)
        return next(p for p in model.parameters() if p.requires_grad)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("kind", ["none", "int8"])
@pytest.mark.parametrize("which", ["student", "gpt2"])
def test_merged_weights_give_what_weights_and_updates_gave(school, which, kind):
    whole = (school.student() if which == "student" else gpt2()).eval()
    plain, adapted = copy.deepcopy(whole), copy.deepcopy(whole)
    quantise(adapted, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft's, of a matrix that lies on its side
        trained(adapted)
    merge_adapters(adapted, whole)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected, found, start = (m(ids).logits for m in (adapted, whole, plain))
    off = (found - expected).norm() / (expected - start).norm()
    assert off < (1e-5 if kind == "none" else 0.05)


def test_updates_are_read_back_bit_for_bit_and_never_into_another_student(
    school, tmp_path
):
    model = trained(school.student())
    save_adapter(model, tmp_path)
    again = school.student()
    add_adapters(again, LORA, seed=9)
    load_adapter(again, tmp_path)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    other = school.student()
    add_adapters(other, replace(LORA, rank=5), seed=0)
    with pytest.raises(ValueError, match=r"does not fit this student, .*lora_A"):
        load_adapter(other, tmp_path)
    with pytest.raises(ValueError, match=r"holds no adapter_model.safetensors"):
        load_adapter(other, tmp_path / "nowhere")


def test_embeddings_that_learn_beside_updates_are_kept_merged_and_read_by_peft(
    tmp_path,
):
    import peft

    whole, adapted, again = gpt2().eval(), gpt2(), gpt2()
    add_adapters(adapted, LORA, seed=0)
    train_embeddings(adapted)
    draw = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    assert adapted.get_input_embeddings().weight.requires_grad
    save_adapter(adapted.eval(), tmp_path)

    add_adapters(again, LORA, seed=9)
    train_embeddings(again)
    load_adapter(again, tmp_path)
    theirs = peft.PeftModel.from_pretrained(gpt2(), tmp_path)
    merge_adapters(adapted, whole)
    assert whole.lm_head.weight is whole.transformer.wte.weight
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = adapted(ids).logits
        assert torch.equal(again.eval()(ids).logits, expected)
        for model in (whole, theirs.eval()):
            torch.testing.assert_close(model(ids).logits, expected)


def test_embeddings_alone_learn_where_there_are_no_updates():
    model = gpt2()
    train_embeddings(model)
    moving = {name for name, p in model.named_parameters() if p.requires_grad}
    assert moving == {"transformer.wte.weight"}  # the head is tied to it


def test_updates_of_a_bfloat16_student_are_float32(school):
    model = school.student().bfloat16()
    add_adapters(model, LORA, 0)
    types = {p.dtype for p in model.parameters() if p.requires_grad}
    assert types == {torch.float32}


def test_targets_are_named_by_their_ends(school):
    model = school.student()
    add_adapters(model, replace(LORA, targets=["v_proj"]), 0)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert names and all(".v_proj." in name for name in names)
    with pytest.raises(ValueError, match=r"names 'proj'.*they are .*v_proj"):
        add_adapters(school.student(), replace(LORA, targets=["v_proj", "proj"]), 0)


def test_without_peft_the_error_says_how_to_get_it(school, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"student.lora needs peft: .*mtkd\[quant\]"):
        add_adapters(school.student(), LORA, 0)


@pytest.mark.slow
def test_a_quantised_student_trains_the_same_under_deepspeed(school, start_engine):
    def losses(config):
        model = school.student()
        quantise(model, "int4")
        add_adapters(model, LORA, 0)
        torch.manual_seed(0)
        lesson = school.lesson("projector", loss=LossConfig(), model=model)
        lines = []
        job = Job(
            samples=school.samples[:8],
            encode=school.encode,
            views=lesson.panel,
            steps=3,
            seed=0,
            observer=Watching(lines),
        )
        train_phase(lesson.distiller, start_engine(config), job, config)
        return [line["loss"] for line in lines if line["kind"] == "train"]

    base = TrainConfig(
        steps=3, batch_size=2, engine="torch", log_every=1, learning_rate=0.01
    )
    expected = losses(base)
    assert len(set(expected)) == 3
    for stage in (0, 1, 2):
        config = replace(base, engine="deepspeed", zero_stage=stage)
        assert losses(config) == pytest.approx(expected, rel=1e-5), stage
