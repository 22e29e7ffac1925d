"""Six families of one size for ``capture.py``, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from align.views import EMBEDDINGS, HIDDEN, NORMED, RESIDUAL, Captured
from teacher.capture.kv_capture import KVCapture

LAYERS, WIDTH, HEADS, TOKENS, BATCH, VOCABULARY = 4, 1024, 16, 192, 1, 8192
ROWS = 16
"""Queries whose attention is captured, as ``loss.attention_rows`` has them."""
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "max_position_embeddings": 2 * TOKENS,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2LMHeadModel", _COMMON),
    "OPT": (
        "OPTForCausalLM",
        _COMMON | {"ffn_dim": 4 * WIDTH, "word_embed_proj_dim": WIDTH},
    ),
    "GPT-NeoX": ("GPTNeoXForCausalLM", _COMMON),
    "Qwen2, grouped": ("Qwen2ForCausalLM", _COMMON | {"num_key_value_heads": 2}),
    "BERT": ("BertForMaskedLM", _COMMON),
    "T5 encoder": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": WIDTH,
            "d_kv": WIDTH // HEADS,
            "d_ff": 4 * WIDTH,
            "num_layers": LAYERS,
            "num_decoder_layers": 1,
            "num_heads": HEADS,
            "decoder_start_token_id": 0,
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Family:
    """A model with the three ways of running it on one batch."""

    name: str
    capture: KVCapture
    ids: Tensor
    mask: Tensor

    def plain(self, **asked: Any) -> Any:
        """The library's forward: logits, or an encoder's last hidden state.

        Args:
            asked: of it besides.
        """
        model: Any = self.capture.model
        inputs: dict[str, Any] = {"input_ids": self.ids, "attention_mask": self.mask}
        if self.capture.which == "encoder":
            return model.get_encoder()(**inputs, **asked)
        if model.config.use_cache:
            inputs["use_cache"] = False
        return model(**inputs, **asked)

    def states(self) -> Any:
        """The same, with the hidden states that the library itself gives."""
        return self.plain(output_hidden_states=True)

    def captured(self) -> Captured:
        """The same with all layers' content KV."""
        logits = self.capture.has_logits
        return self.capture(self.ids, self.mask, logits=logits, hidden=not logits)

    def inside(self) -> dict[str, Callable[[], Captured]]:
        """What lies between layers and what heads attend to, of all layers, each with
        what :meth:`plain` gives."""
        logits = self.capture.has_logits
        run = partial(
            self.capture, self.ids, self.mask, logits=logits, hidden=not logits
        )
        rows = torch.linspace(1, TOKENS - 1, ROWS).long().expand(BATCH, -1)
        states = (HIDDEN, RESIDUAL, NORMED, EMBEDDINGS)
        return {
            "KV and hidden states": partial(run, states=(HIDDEN,)),
            "KV and all states": partial(run, states=states),
            "KV and attention of every head": partial(
                run, attention_rows=rows, heads=True
            ),
        }

    def only_kv(self, layers: range) -> Captured:
        """The KV of some layers and nothing else."""
        return self.capture(self.ids, self.mask, layers=layers)


NAMES = tuple(_FAMILIES)
"""Of all families."""


def families(names: Sequence[str] = ()) -> list[Callable[[], Family]]:
    """One builder a family, so that no two models are in memory at once.

    Args:
        names: some of :data:`NAMES`; none: all.
    """
    return [partial(_build, name) for name in names or NAMES]


def _build(name: str) -> Family:
    import transformers

    class_name, settings = _FAMILIES[name]
    cls = getattr(transformers, class_name)
    torch.manual_seed(0)
    config = cls.config_class(
        **settings, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    model = cls(config).eval()
    ids = torch.randint(3, VOCABULARY, (BATCH, TOKENS))
    mask = torch.ones_like(ids, dtype=torch.bool)
    return Family(name, KVCapture(model), ids, mask)
