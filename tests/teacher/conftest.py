"""Two-layer random models of the true classes."""

from typing import Any

import pytest
import torch

VOCAB = 61
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return GROUPED | {
        "rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}
    }


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", SMALL),
    "opt": (
        "OPTForCausalLM",
        SMALL
        | {"ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": True},
    ),
    "llama": ("LlamaForCausalLM", GROUPED),
    "llama3": ("LlamaForCausalLM", _rope("llama3", **LLAMA3)),
    "yarn": (
        "LlamaForCausalLM",
        _rope("yarn", factor=4.0, original_max_position_embeddings=8),
    ),
    "linear": ("LlamaForCausalLM", _rope("linear", factor=4.0)),
    "dynamic": (
        "LlamaForCausalLM",
        _rope("dynamic", factor=2.0) | {"max_position_embeddings": 10},
    ),
    "mistral": ("MistralForCausalLM", GROUPED | {"sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", GROUPED),
    "gpt_neox": ("GPTNeoXForCausalLM", SMALL | {"rotary_pct": 0.5}),
    "phi": ("PhiForCausalLM", SMALL | {"partial_rotary_factor": 0.5}),
    "gemma2": (
        "Gemma2ForCausalLM",
        GROUPED | {"sliding_window": 4, "attn_logit_softcapping": 0.5},
    ),
    "gemma3": ("Gemma3ForCausalLM", GROUPED | {"sliding_window": 4}),
    "cohere": ("CohereForCausalLM", GROUPED),
    "cohere2": (
        "Cohere2ForCausalLM",
        GROUPED | {"sliding_window": 4, "num_hidden_layers": 4},
    ),
    "smollm3": (
        "SmolLM3ForCausalLM",
        GROUPED | {"no_rope_layers": [1, 0]},
    ),
    "glm": ("GlmForCausalLM", GROUPED | {"partial_rotary_factor": 0.5}),
    "gpt_oss": (
        "GptOssForCausalLM",
        GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "bert": ("BertForMaskedLM", SMALL),
    "roberta": ("RobertaForMaskedLM", SMALL | {"max_position_embeddings": 33}),
    "albert": ("AlbertForMaskedLM", SMALL | {"embedding_size": 16}),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_decoder_layers": 3,
            "num_heads": 4,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
    ),
}


@pytest.fixture(scope="session")
def make_model():
    """Build the named model in float32, in evaluation mode, seeded."""
    transformers = pytest.importorskip("transformers")

    def make(name: str, **changes: Any):
        class_name, settings = CONFIGS[name]
        cls = getattr(transformers, class_name)
        torch.manual_seed(0)
        model = cls(cls.config_class(**(settings | changes)))
        for parameter in model.parameters():  # so that no weight is a plain 0 or 1
            parameter.data += 0.2 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def batch():
    """Ids (2, 12), the second row with 7 real tokens, and their mask."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCAB, (2, 12), generator=generator)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    return torch.where(mask, ids, 0), mask
