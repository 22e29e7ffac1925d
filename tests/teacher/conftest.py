"""Two-layer random models of the true classes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.read_once import copies_of

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
LATENT = SMALL | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
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
    "longrope": (
        "LlamaForCausalLM",
        _rope(
            "longrope",
            factor=2.0,
            short_factor=[1.0] * 4,
            long_factor=[1.0, 2.0, 3.0, 4.0],
            original_max_position_embeddings=10,
        ),
    ),
    "proportional": (
        "LlamaForCausalLM",
        _rope("proportional", partial_rotary_factor=0.5),
    ),
    "mistral": ("MistralForCausalLM", GROUPED | {"sliding_window": 4}),
    "mistral_wide": ("MistralForCausalLM", GROUPED | {"sliding_window": 24}),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", GROUPED),
    "gpt_neox": ("GPTNeoXForCausalLM", SMALL | {"rotary_pct": 0.5}),
    "phi3": ("Phi3ForCausalLM", GROUPED),
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
    "olmo2": ("Olmo2ForCausalLM", GROUPED),
    "glm4": ("Glm4ForCausalLM", GROUPED | {"partial_rotary_factor": 0.5}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", LATENT),
    "deepseek_v3_halves": (
        "DeepseekV3ForCausalLM",
        LATENT | {"rope_interleave": False},
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        GROUPED
        | {
            "num_hidden_layers": 4,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "gemma3n": (
        "Gemma3nForCausalLM",
        GROUPED
        | {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "altup_active_idx": 0,
            "sliding_window": 4,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "glm": ("GlmForCausalLM", GROUPED | {"partial_rotary_factor": 0.5}),
    "gpt_oss": (
        "GptOssForCausalLM",
        GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "bert": ("BertForMaskedLM", SMALL),
    "roberta": ("RobertaForMaskedLM", SMALL | {"max_position_embeddings": 33}),
    "albert": ("AlbertForMaskedLM", SMALL | {"embedding_size": 16}),
    "modernbert": (
        "ModernBertForMaskedLM",
        SMALL
        | {
            "local_attention": 4,
            "global_attn_every_n_layers": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
    ),
    "distilbert": (
        "DistilBertForMaskedLM",
        {
            "vocab_size": VOCAB,
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 32,
        },
    ),
    "bart": (
        "BartForConditionalGeneration",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
    ),
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
    built: dict[str, tuple[Callable[[], Any], torch.Tensor]] = {}

    def make(name: str, **changes: Any):
        key = repr((name, sorted(changes.items())))
        if key not in built:
            built[key] = copies_of(build(name, changes)), torch.get_rng_state()
        copied, state = built[key]
        torch.set_rng_state(state)  # as after building
        return copied()

    def build(name: str, changes: dict[str, Any]):
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
