"""What no loss reaches stands still, bit for bit, whoever takes the step."""

from dataclasses import replace

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from student.config import LoraConfig, TrainConfig
from student.loop.trainer import Job, train_phase
from student.lora import add_adapters
from student.unreached import freeze_unreached
from tests.composites import gemma3, git, mllama

pytestmark = pytest.mark.edges


@pytest.mark.parametrize(
    ("build", "rest"),
    [
        (gemma3, ("vision_tower.", "multi_modal_projector.")),
        (git, ("image_encoder.", "visual_projection.")),
        (mllama, ("vision_model.", "multi_modal_projector", "language_model.layers.1")),
    ],
)
def test_what_reads_pictures_is_frozen_and_the_text_model_is_not(build, rest):
    model = build().train()
    state = torch.random.get_rng_state()
    frozen = freeze_unreached(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    expected = [n for n, _ in model.named_parameters() if any(r in n for r in rest)]
    assert frozen == expected
    moving = {n for n, p in model.named_parameters() if p.requires_grad}
    model(input_ids=torch.arange(9)[None]).logits.square().sum().backward()
    assert moving == {n for n, p in model.named_parameters() if p.grad is not None}
    assert freeze_unreached(model) == []


def test_a_model_of_text_alone_keeps_all_it_trains(school):
    assert freeze_unreached(school.student()) == []


def test_experts_that_one_text_does_not_choose_are_trained():
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = MixtralConfig(vocab_size=64, num_local_experts=8, **size, **heads)
    assert freeze_unreached(MixtralForCausalLM(config)) == []

    class Routed(torch.nn.Module):
        """Experts in a list, as older models hold them; each text takes one."""

        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(4))
            self.pooler = torch.nn.Linear(3, 3)

        def forward(self, input_ids, use_cache):
            out = self.experts[0](torch.ones(*input_ids.shape, 3))
            return type("Output", (), {"logits": out})

    assert freeze_unreached(Routed()) == ["pooler.weight", "pooler.bias"]


@pytest.mark.parametrize(
    ("engine", "stage"), [("torch", 0), ("deepspeed", 0), ("deepspeed", 2)]
)
def test_a_composites_tower_stands_still_to_the_bit(
    school, start_engine, engine, stage
):
    """Fails when weight decay takes its share of what no loss reaches."""
    model = gemma3(school.student().config.vocab_size)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    freeze_unreached(model)
    config = TrainConfig(
        steps=2, batch_size=2, engine="torch", weight_decay=0.5, learning_rate=0.1
    )
    config = replace(config, engine=engine, zero_stage=stage)
    lesson = school.lesson(None, model=model)
    job = Job(
        samples=school.samples[:8], encode=school.encode, views=None, steps=2, seed=0
    )
    train_phase(lesson.distiller, start_engine(config), job, config)
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}
    text = {n for n, p in model.named_parameters() if "language_model" in n}
    assert moved == text


def test_updates_are_put_on_the_text_model_alone():
    pytest.importorskip("peft")
    for targets, layers in (("auto", 14), (["q_proj"], 2)):
        model = gemma3()
        add_adapters(model, LoraConfig(rank=2, targets=targets), 0)
        trained = [n for n, p in model.named_parameters() if p.requires_grad]
        assert len(trained) == 2 * layers
        assert all(name.startswith("model.language_model.") for name in trained)
        assert freeze_unreached(model) == []
    with pytest.raises(ValueError, match=r"'fc1', but no linear layer .*; they are"):
        add_adapters(gemma3(), LoraConfig(rank=2, targets=["fc1"]), 0)
