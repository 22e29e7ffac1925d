"""Small random models of the true classes, beside tokenizers of their kinds.

The tokenizers are the true ones where they lie beside the checkout, else small ones of
their kinds. Position schemes are each family's own; widths and depths are small.
"""

from pathlib import Path
from typing import Any

import torch

from teacher.loading.tokenizer import largest_id
from tests.small_tokenizers import outside, real, small

DECODERS = ("gpt2", "opt", "pythia", "llama2", "qwen2.5", "mistral")
ENCODERS = ("bert", "bert-chinese", "t5")
_TOKENIZERS = {
    "gpt2": ("gpt2", "bytes"),
    "opt": ("opt", "bytes-renumbered"),
    "pythia": ("gpt-neox", "bytes-nfc"),
    "llama2": ("llama2", "metaspace-legacy"),
    "qwen2.5": ("qwen2.5", "bytes-chatml"),
    "mistral": ("mistral-7b-v0.1", "metaspace"),
    "bert": ("bert-base-uncased", "words-lower"),
    "bert-chinese": ("bert-base-chinese", "words"),
    "t5": ("t5-small", "unigram-end"),
}
"""Each family's folder among the true ones, and its kind among the small ones."""


def save_real(name: str, folder: Path, *, true: bool = True) -> Path:
    """Save one family's model and tokenizer.

    Args:
        name: of ``DECODERS`` or ``ENCODERS``.
        folder: to write into.
        true: take the true tokenizer where it lies beside the checkout.
    """
    lying, kind = _TOKENIZERS[name]
    tokenizer = real(lying) if true and outside(lying) else small(kind)
    torch.manual_seed(len(name))
    # some rows more than ids, as true models have
    _model(name, -(-(largest_id(tokenizer) + 1) // 64) * 64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _model(name: str, rows: int) -> Any:
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
        return hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=rows, n_embd=32, n_layer=3, n_head=4)
        )
    if name == "opt":
        sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2}
        config = hf.OPTConfig(
            **sizes, num_attention_heads=4, word_embed_proj_dim=16, vocab_size=rows
        )
        return hf.OPTForCausalLM(config)
    if name == "pythia":
        config = hf.GPTNeoXConfig(
            vocab_size=rows,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            rotary_pct=0.25,
        )
        return hf.GPTNeoXForCausalLM(config)
    if name == "llama2":
        return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=rows, **llama))
    if name == "qwen2.5":
        config = hf.Qwen2Config(vocab_size=rows, tie_word_embeddings=True, **llama)
        config.rope_theta = 1e6
        return hf.Qwen2ForCausalLM(config)
    if name == "mistral":
        config = hf.MistralConfig(vocab_size=rows, sliding_window=16, **llama)
        return hf.MistralForCausalLM(config)
    if name == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(vocab_size=rows, **bert))
    if name == "bert-chinese":
        return hf.BertForMaskedLM(hf.BertConfig(vocab_size=rows, **bert))
    config = hf.T5Config(
        vocab_size=rows,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return hf.T5ForConditionalGeneration(config)
