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
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    models = {}
    for name in sorted(names):
        planned = planned_model(name)
        tokenizer = AutoTokenizer.from_pretrained(zoo[FAMILIES[planned.family]])
        fields = planned.config.to_dict() | _fields(planned.family, len(tokenizer))
        config = type(planned.config).from_dict(fields)
        auto = AutoModelForCausalLM if planned.kind == "decoder" else AutoModel
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
    size |= _SMALL
    if family in ("qwen2", "llama"):
        size |= {"num_key_value_heads": 2, "layer_types": ["full_attention"] * 3}
    return size | {"intermediate_size": 128}
