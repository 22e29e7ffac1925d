"""Models of the recipes' architectures, small and untrained."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from experiments.estimate.shapes import planned_model

FAMILIES = {
    "qwen2": "qwen-code",
    "llama": "student",
    "gpt2": "gpt2-prose",
    "gpt_neox": "neox-mixed",
    "bert": "bert-mixed",
    "t5": "t5-mixed",
}
"""Architecture -> the embedded model whose tokenizer stands in for its own."""
_SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def shrunk_models(
    names: Iterable[str], folder: Path, zoo: Mapping[str, Path]
) -> dict[str, Path]:
    """Save a small model for each name, whose config is the named one's otherwise."""
    import torch
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    classes = {
        "decoder": AutoModelForCausalLM,
        "encoder-decoder": AutoModelForSeq2SeqLM,
        "encoder": AutoModel,
    }

    models = {}
    for name in sorted(names):
        planned = planned_model(name)
        tokenizer = AutoTokenizer.from_pretrained(zoo[FAMILIES[planned.family]])
        fields = planned.config.to_dict() | _fields(planned.family, len(tokenizer))
        config = type(planned.config).from_dict(fields)
        auto = classes[planned.kind]
        torch.manual_seed(len(models))
        path = models[name] = folder / name.replace("/", "-")
        auto.from_config(config).to(torch.float32).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return models


def _fields(family: str, vocabulary: int) -> dict[str, object]:
    size = {"vocab_size": vocabulary, "dtype": "float32"}
    size |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    if family == "gpt2":
        return size | {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}
    if family == "t5":
        heads = {"num_heads": 4, "d_kv": 16, "d_model": 64, "d_ff": 128}
        return size | heads | {"num_layers": 2, "num_decoder_layers": 2}
    size |= _SMALL
    if family in ("qwen2", "llama"):
        size |= {"num_key_value_heads": 2, "layer_types": ["full_attention"] * 3}
    return size | {"intermediate_size": 128}
