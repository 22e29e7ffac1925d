"""Models and texts that cannot be used, each in one way of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch


def copied(model: Path, place: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(model, place)
    return place


def truncated(file: Path) -> None:
    """Keep the first two thirds, as a broken download would."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])


def reweighted(folder: Path, part: str, change: Any) -> None:
    """Change in place the weights whose name holds ``part``."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    chosen = [name for name in weights if part in name]
    assert chosen, sorted(weights)
    for name in chosen:
        weights[name] = change(weights[name])
    save_file(weights, file, metadata={"format": "pt"})


def without_attention(folder: Path, tokenizer: Path, kind: str) -> Path:
    """A two-layer Mamba or RWKV beside somebody's tokenizer."""
    import transformers

    size = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    if kind == "mamba":
        config = transformers.MambaConfig(
            vocab_size=size, hidden_size=16, state_size=4, num_hidden_layers=2
        )
        model = transformers.MambaForCausalLM(config)
    else:
        config = transformers.RwkvConfig(
            vocab_size=size, hidden_size=16, num_hidden_layers=2
        )
        model = transformers.RwkvForCausalLM(config)
    return _beside(model, tokenizer, folder)


def short_sighted(folder: Path, tokenizer: Path, positions: int) -> Path:
    """A GPT-2 with few positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    config = GPT2Config(
        vocab_size=size, n_positions=positions, n_embd=16, n_layer=2, n_head=2
    )
    return _beside(GPT2LMHeadModel(config), tokenizer, folder)


def with_slow_tokenizer(folder: Path) -> Path:
    """A Llama beside ByT5's tokenizer, which exists in Python only."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    _llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def deaf(folder: Path, specials: bool) -> Path:
    """A Llama whose tokenizer drops every character, special tokens or not."""
    from tokenizers import Regex, Tokenizer, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, "a": 2, "b": 3}
    raw = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    raw.normalizer = normalizers.Replace(Regex(r"[\s\S]"), "")
    if specials:
        raw.post_processor = processors.TemplateProcessing(
            "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    _llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _llama(size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    )


def _beside(model: Any, tokenizer: Path, folder: Path) -> Path:
    from transformers import AutoTokenizer

    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder
