"""A run says which layers of a teacher have no keys and values of their own."""

import torch
from transformers import AutoTokenizer, Lfm2Config, Lfm2ForCausalLM

from experiments.assemble.models import Models
from experiments.config.tree import load_config


def test_convolutions_are_named_and_a_teacher_of_attention_is_not(tiny_zoo, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_zoo["qwen-code"])
    config = Lfm2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        layer_types=["conv", "full_attention", "conv"],
    )  # fmt: skip
    folder = tmp_path / "hybrid"
    Lfm2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    teachers = {
        "hybrid": {"model": str(folder)},
        "plain": {"model": str(tiny_zoo["qwen-code"])},
    }
    student = {"model": str(tiny_zoo["student"])}
    run = load_config({"student": student, "teachers": teachers})
    (sentence,) = Models(run, torch.device("cpu")).left_out()
    assert sentence.startswith("teacher 'hybrid' gives 1 layers")
    assert sentence.endswith("of their own: 0 (conv), 2 (conv)")
