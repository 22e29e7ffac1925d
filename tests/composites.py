"""Small random models that read text beside towers for pictures."""

from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    GitConfig,
    GitForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
)

_SIZE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_GROUPED = _SIZE | {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
_GROUPED |= {"bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 128}
_TOWER = _SIZE | {"num_hidden_layers": 1, "image_size": 28, "patch_size": 14}


def gemma3(vocabulary: int = 64) -> Any:
    """A composite whose tower has a table of 4 positions, and whose text has none."""
    marks = ("image_token_index", "boi_token_index", "eoi_token_index")
    config = Gemma3Config(
        text_config=_GROUPED | {"vocab_size": vocabulary, "sliding_window": 64},
        vision_config=_TOWER,
        mm_tokens_per_image=4,
        **dict(zip(marks, range(3, 6), strict=True)),
    )
    torch.manual_seed(0)
    return Gemma3ForConditionalGeneration(config)


def gemma3_text(composite: Any) -> Any:
    """The text model inside such a composite, as a model of its own."""
    alone = Gemma3ForCausalLM(composite.config.text_config)
    alone.model.load_state_dict(composite.model.language_model.state_dict())
    alone.lm_head.load_state_dict(composite.lm_head.state_dict())
    return alone


def git() -> Any:
    """A composite whose body holds the tower, and whose text has 40 positions."""
    config = GitConfig(
        vocab_size=64,
        max_position_embeddings=40,
        vision_config=_TOWER,
        bos_token_id=1,
        eos_token_id=2,
        **_SIZE,
    )
    return GitForCausalLM(config)


def mllama() -> Any:
    """A composite with a layer of its text model for pictures alone."""
    tower = {k: v for k, v in _TOWER.items() if k != "num_attention_heads"}
    config = MllamaConfig(
        text_config=_GROUPED
        | {"vocab_size": 64, "num_hidden_layers": 3, "cross_attention_layers": [1]},
        vision_config=tower
        | {
            "attention_heads": 2,
            "num_global_layers": 1,
            "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
            "intermediate_layers_indices": [0],
            "vision_output_dim": 32,
        },
        image_token_index=60,
    )
    return MllamaForConditionalGeneration(config)
