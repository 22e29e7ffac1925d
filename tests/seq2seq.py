"""Tiny encoder-decoders of three families, over one small real tokenizer."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf

from align.text.prompted import Prompted
from tests.small_tokenizers import small

TEXTS = [
    Prompted("A man walks.", " Ein Mann geht."),
    Prompted("The dog sleeps near the old house", " Der Hund schläft."),
    Prompted("Two women talk to a child", " Zwei Frauen reden"),
]


def tokenizer() -> Any:
    """Pieces with an end of text behind them, as T5's."""
    return small("unigram-end")


def model(family: str, layers: int = 2, width: int = 16) -> Any:
    """A random model without dropout.

    Args:
        family: t5, t5-deep (a decoder with one more layer than the encoder), bart or
            marian.
        layers: of encoder and decoder.
        width: of the hidden states; heads are of 8.
    """
    names = tokenizer()
    pad, end, rows = names.pad_token_id, names.eos_token_id, len(names)
    ids = {"pad_token_id": pad, "eos_token_id": end, "vocab_size": rows}
    heads = width // 8
    torch.manual_seed(layers)
    if family.startswith("t5"):
        config = hf.T5Config(
            **ids,
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=layers,
            num_decoder_layers=layers + (family == "t5-deep"),
            num_heads=heads,
            dropout_rate=0.0,
            decoder_start_token_id=pad,
        )
        return hf.T5ForConditionalGeneration(config).eval()
    sizes = {
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 64,
        "dropout": 0.0,
    }
    if family == "bart":
        bart = hf.BartConfig(
            **ids, **sizes, bos_token_id=end, decoder_start_token_id=end
        )
        made: Any = hf.BartForConditionalGeneration(bart)
    else:
        made = hf.MarianMTModel(
            hf.MarianConfig(**ids, **sizes, decoder_start_token_id=pad)
        )
    made.final_logits_bias.normal_()  # of a trained checkpoint it is not 0
    return made.eval()


def save(folder: Path, **sizes: Any) -> Path:
    """Write a model with its tokenizer."""
    family = sizes.pop("family", "t5")
    model(family, **sizes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def inputs(texts: list[Prompted]) -> dict[str, torch.Tensor]:
    """What transformers' own model is given for its loss, labels included."""
    names = tokenizer()
    read = names([text.prompt for text in texts], return_tensors="pt", padding=True)
    written = names(
        [text.completion.lstrip() for text in texts], return_tensors="pt", padding=True
    )
    labels = written["input_ids"].masked_fill(~written["attention_mask"].bool(), -100)
    return {**read, "labels": labels}
