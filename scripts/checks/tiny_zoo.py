"""The tiny zoo, and what its models say about a text."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

MODELS = ("gpt2-prose", "qwen-code", "neox-mixed", "bert-mixed", "t5-mixed", "student")
TEXT = "Routers learn from the outcome: un + believable = unbelievable, 深度 KV\r\n"


@cache
def zoo(name: str) -> tuple[Any, Any]:
    """Tokenizer and capture of one model, built and cached on first use."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from teacher.capture import KVCapture
    from teacher.zoo import build_zoo

    disable_progress_bar()
    path = build_zoo(progress=False, scale="tiny")[name]
    kind = AutoModel if name.startswith(("bert", "t5")) else AutoModelForCausalLM
    model = kind.from_pretrained(path).eval()
    return AutoTokenizer.from_pretrained(path), KVCapture(model)


def seen(name: str, texts: list[str], **options: Any) -> tuple[Any, Any]:
    """Tokens of texts, and what one model captured on them."""
    from align import encode_batch

    tokenizer, capture = zoo(name)
    batch = encode_batch(tokenizer, texts)
    with torch.no_grad():
        return batch, capture(batch.ids, batch.mask, **options)
