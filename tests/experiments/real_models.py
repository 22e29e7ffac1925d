"""Small random models of the true classes, beside the true tokenizers.

Vocabularies are whole and position schemes are each family's own; only widths and
depths are small.
"""

from pathlib import Path
from typing import Any

import torch

DECODERS = ("gpt2", "opt", "pythia", "llama2", "qwen2.5", "mistral")
ENCODERS = ("bert", "bert-chinese", "t5")
_TOKENIZERS = {
    "pythia": "gpt-neox",
    "mistral": "mistral-7b-v0.1",
    "bert": "bert-base-uncased",
    "bert-chinese": "bert-base-chinese",
    "t5": "t5-small",
}


def save_real(name: str, folder: Path, tokenizers: Path) -> Path:
    """Save one family's model and tokenizer.

    Args:
        name: of ``DECODERS`` or ``ENCODERS``.
        folder: to write into.
        tokenizers: folder of real tokenizers.
    """
    from transformers import AutoTokenizer

    torch.manual_seed(len(name))
    _model(name).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tokenizers / _TOKENIZERS.get(name, name))
    tokenizer.save_pretrained(folder)
    return folder


def _model(name: str) -> Any:
    import transformers as hf

    llama = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    bert = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    if name == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=3, n_head=4))
    if name == "opt":
        sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2}
        config = hf.OPTConfig(
            **sizes, num_attention_heads=4, word_embed_proj_dim=16, vocab_size=50272
        )
        return hf.OPTForCausalLM(config)
    if name == "pythia":
        config = hf.GPTNeoXConfig(
            vocab_size=50304,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            rotary_pct=0.25,
        )
        return hf.GPTNeoXForCausalLM(config)
    if name == "llama2":
        return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=32000, **llama))
    if name == "qwen2.5":
        config = hf.Qwen2Config(vocab_size=151936, tie_word_embeddings=True, **llama)
        config.rope_theta = 1e6
        return hf.Qwen2ForCausalLM(config)
    if name == "mistral":
        config = hf.MistralConfig(vocab_size=32000, sliding_window=16, **llama)
        return hf.MistralForCausalLM(config)
    if name == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(vocab_size=30522, **bert))
    if name == "bert-chinese":
        return hf.BertForMaskedLM(hf.BertConfig(vocab_size=21128, **bert))
    config = hf.T5Config(
        vocab_size=32128,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return hf.T5ForConditionalGeneration(config)
