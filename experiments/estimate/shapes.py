"""The sizes of models: from their ``config.json``, or known without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from align.errors import prefix_errors
from align.sizes import Sizes
from experiments.config.tree import Config
from experiments.sources.making import tell_code
from experiments.sources.named import described_by, sources_of, stored_facts
from plugins.registry import Registry
from teacher.loading.model_config import read_config
from teacher.sources.base import TeacherSource
from teacher.store.facts import StoreFacts

Fields = Mapping[str, Any]
_QWEN: Fields = {
    "model_type": "qwen2",
    "dtype": "bfloat16",
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
_QWEN_SMALL: Fields = {
    **_QWEN,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
}
_QWEN_MIDDLE: Fields = {
    **_QWEN,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
}
PUBLISHED: Mapping[str, Fields] = {
    "Qwen/Qwen2.5-0.5B": _QWEN_SMALL,
    "Qwen/Qwen2.5-0.5B-Instruct": _QWEN_SMALL,
    "Qwen/Qwen2.5-1.5B": _QWEN_MIDDLE,
    "Qwen/Qwen2.5-Coder-1.5B": _QWEN_MIDDLE,
    "Qwen/Qwen2.5-Math-1.5B": _QWEN_MIDDLE,
    "Qwen/Qwen2.5-7B": {
        **_QWEN,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
    "HuggingFaceTB/SmolLM2-135M": {
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolLM2-1.7B": {
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
    },
    "EleutherAI/pythia-160m": {
        "model_type": "gpt_neox",
        "dtype": "float16",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 50_304,
    },
    "openai-community/gpt2": {"model_type": "gpt2"},
    "openai-community/gpt2-medium": {
        "model_type": "gpt2",
        "n_embd": 1024,
        "n_layer": 24,
        "n_head": 16,
    },
    "openai-community/gpt2-large": {
        "model_type": "gpt2",
        "n_embd": 1280,
        "n_layer": 36,
        "n_head": 20,
    },
    "google-t5/t5-small": {
        "model_type": "t5",
        "d_model": 512,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "decoder_start_token_id": 0,
    },
    "google-t5/t5-base": {
        "model_type": "t5",
        "d_model": 768,
        "d_ff": 3072,
        "num_layers": 12,
        "num_heads": 12,
        "decoder_start_token_id": 0,
    },
    "google-bert/bert-base-cased": {"model_type": "bert", "vocab_size": 28_996},
}
"""What the files of the recipes' models say, for a plan on a machine that has none of
them."""
_ENCODERS = ("bert",)
"""Of these, the architectures that predict nothing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlannedModel:
    """What is known of a model by its ``config.json`` alone."""

    config: Any
    """Of transformers; None of one that is read from a store."""
    kind: str
    family: str
    """The architecture, as transformers' ``model_type``."""
    sizes: Sizes
    vocab: int
    query_heads: int
    silent: bool = False
    """Whether nothing is at hand of what it says about the next token."""

    @property
    def causal(self) -> bool:
        """Whether a token's keys and values have read no later token."""
        return self.kind == "decoder"

    @property
    def predicts(self) -> bool:
        """Whether it says anything about the next token."""
        return self.causal and not self.silent

    @property
    def learned_positions(self) -> bool:
        """Of a table; a plan does not look at it."""
        return False


def planned_model(
    name: str, vocabulary: str | None = None, *, trust: bool = False
) -> PlannedModel:
    """Read a model's sizes.

    Args:
        name: a folder with a ``config.json``, a hub name of which this machine has one,
            or a name in ``PUBLISHED``.
        vocabulary: the model, likewise, whose vocabulary it has; None: its own.
        trust: run Python files that come with the model.

    Raises:
        FileNotFoundError: none of these.
        ValueError: the config cannot be used.
    """
    config, kind = _config_of(name, trust)
    text = config.get_text_config()
    if vocabulary is not None:
        text.vocab_size = planned_model(vocabulary).vocab
    heads = int(text.num_attention_heads)
    size = getattr(text, "head_dim", None) or int(text.hidden_size) // heads
    sizes = Sizes(
        layers=int(text.num_hidden_layers),
        heads=int(getattr(text, "num_key_value_heads", None) or heads),
        k_dim=int(size),
        v_dim=int(size),
        hidden_size=int(text.hidden_size),
        query_heads=heads,
        embedding_size=int(
            getattr(text, "word_embed_proj_dim", None) or text.hidden_size
        ),
    )
    return PlannedModel(
        config=config,
        kind=kind,
        family=str(config.model_type),
        sizes=sizes,
        vocab=int(text.vocab_size),
        query_heads=heads,
    )


def planned_teachers(config: Config, registry: Registry) -> dict[str, PlannedModel]:
    """Read the sizes of a config's teachers.

    Raises:
        FileNotFoundError: those of a model are not at hand, or a store is not there.
        ConfigError: nothing is known of a teacher before it is opened.
    """
    planned = {}
    for name, source in sources_of(config, registry).items():
        with prefix_errors(f"teachers.{name}"):
            stored = stored_facts(source)
        planned[name] = (
            _teacher_of(config, name, source)
            if stored is None
            else _stored_model(stored)
        )
    return planned


def planned_student(config: Config) -> PlannedModel:
    """What the student's files say; their code is run where the config trusts it."""
    entry = config.student
    tell_code("student", entry, entry.model)
    return planned_model(entry.model, config.vocabulary, trust=entry.trust_remote_code)


def _teacher_of(config: Config, name: str, source: TeacherSource) -> PlannedModel:
    """What a teacher's files say; their code is run where the config trusts it."""
    entry, (model, vocabulary) = config.teachers[name], described_by(config, source)
    with prefix_errors(f"teachers.{name}"):
        tell_code(f"teachers.{name}", entry, model)
    return planned_model(model, vocabulary, trust=entry.trust_remote_code)


def _stored_model(stored: StoreFacts) -> PlannedModel:
    """What a teacher's own store says of its sizes."""
    outputs, sizes = stored.plan.outputs, stored.sizes
    return PlannedModel(
        config=None,
        kind=stored.kind,
        family=stored.family,
        sizes=sizes,
        vocab=0 if outputs is None else outputs.vocabulary,
        query_heads=sizes.heads,
        silent=outputs is None,
    )


def _config_of(name: str, trust: bool) -> tuple[Any, str]:
    try:
        return read_config(name, trust)
    except FileNotFoundError:
        if name not in PUBLISHED:
            raise
    from transformers import AutoConfig

    fields = dict(PUBLISHED[name])
    family = fields.pop("model_type")
    config = AutoConfig.for_model(family, **fields)
    kind = "encoder" if family in _ENCODERS else "decoder"
    return config, "encoder-decoder" if config.is_encoder_decoder else kind
