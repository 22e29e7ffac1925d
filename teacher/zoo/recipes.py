"""What the embedded zoo consists of, and how long each model learns.

Each model has its own family, depth, width and tokenizer, as real teachers have.
Sizes and steps are chosen so that the whole zoo trains in minutes on two cores and
every teacher still knows more than a student can learn from its own split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType

from align.errors import InputError

SCALES = ("default", "tiny", "strong", "real")
"""``tiny`` has the same families and tokenizer kinds, barely trained: for tests.
``strong`` trains the same models about twice as long, two of them on one domain
alone, and adds a teacher with the student's tokenizer: for measuring what teaching is
worth. ``real`` has a student alone, of five million weights and untrained, for
pretrained teachers that come from elsewhere (``pkg:smollm2``)."""

POSITIONS = 512
"""Longest sequence of every zoo model with learned or rotary positions, tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRecipe:
    """How a tokenizer is trained."""

    kind: str
    """byte-bpe, unigram or wordpiece."""
    vocab_size: int
    """Entries, special tokens included."""
    style: str
    """What is put around a text: none, bos, eos or cls-sep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """How long and how fast a model learns."""

    objective: str
    """next-token, masked-token or span-corruption."""
    steps: int
    """Optimiser steps; 0 saves the random initialisation."""
    batch: int = 12
    """Sequences per step."""
    length: int = 128
    """Tokens per sequence."""
    learning_rate: float = 4e-3
    """Peak of the cosine schedule; embeddings, norms and biases (AdamW)."""
    matrix_rate: float = 0.02
    """Peak of the cosine schedule; the layers' matrices (Muon)."""
    warmup: int = 40
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    """On the layers' matrices."""
    seed: int = 0
    """Of initialisation and batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooModel:
    """One model of the zoo: its family, tokenizer, reading matter and training."""

    name: str
    """Unique in the zoo; a folder name."""
    family: str
    """A transformers ``model_type``."""
    role: str = "teacher"
    """teacher or student."""
    mix: Mapping[str, float]
    """Share of each domain in its training text, summing to 1."""
    tokenizer: TokenizerRecipe
    train: TrainRecipe
    config: Mapping[str, object] = field(default_factory=dict)
    """Fields of the family's transformers config."""
    text_chars: int | None = None
    """Training text per domain, characters; None takes all there is."""

    tokenizer_of: str = ""
    """Read with the tokenizer of this model, trained on that model's text; empty: with
    one of its own."""

    eval_samples: int = 160
    """Held-out samples per domain that it is measured on; decides no weight."""

    @property
    def leaning(self) -> str:
        """The domain with most of its text, or ``mixed``."""
        name, share = max(self.mix.items(), key=lambda item: item[1])
        return name if share > 0.6 else "mixed"

    @property
    def kind(self) -> str:
        """decoder, encoder or encoder-decoder, as its family is."""
        other = {"bert": "encoder", "t5": "encoder-decoder"}
        return other.get(self.family, "decoder")

    def plain(self) -> dict[str, object]:
        """Everything that decides the result, as JSON values."""
        values: dict[str, object] = {
            "tokenizer": asdict(self.tokenizer),
            "train": asdict(self.train),
            "mix": dict(self.mix),
            "config": dict(self.config),
        }
        for key in ("name", "family", "role", "text_chars", "tokenizer_of"):
            values[key] = getattr(self, key)
        return values


def recipes(scale: str = "default") -> Mapping[str, ZooModel]:
    """Give the recipes of a scale by name, teachers first.

    Args:
        scale: one of :data:`SCALES`.

    Raises:
        ValueError: an unknown scale.
    """
    if scale not in SCALES:
        raise InputError(
            f"zoo scale {scale!r} is unknown; choose one of {', '.join(SCALES)}"
        )
    models = {
        "default": _MODELS,
        "tiny": tuple(_tiny(model) for model in _MODELS),
        "strong": (*(_strong(model) for model in _MODELS[:-1]), _TWIN, _MODELS[-1]),
        "real": (_real(_MODELS[-1]),),
    }[scale]
    return MappingProxyType({model.name: model for model in models})


_BOTH = {"prose": 0.5, "code": 0.5}

_MODELS = (
    ZooModel(
        name="gpt2-prose",
        family="gpt2",
        mix={"prose": 0.85, "code": 0.15},
        tokenizer=TokenizerRecipe(kind="byte-bpe", vocab_size=2048, style="none"),
        train=TrainRecipe(objective="next-token", steps=560, seed=1),
        config={
            "n_layer": 5,
            "n_embd": 192,
            "n_head": 6,
            "n_positions": POSITIONS,
            "activation_function": "gelu_pytorch_tanh",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        },
    ),
    ZooModel(
        name="qwen-code",
        family="qwen2",
        mix={"prose": 0.15, "code": 0.85},
        tokenizer=TokenizerRecipe(kind="byte-bpe", vocab_size=1792, style="none"),
        train=TrainRecipe(objective="next-token", steps=560, seed=2),
        config={
            "num_hidden_layers": 6,
            "hidden_size": 192,
            "intermediate_size": 448,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": POSITIONS,
            "tie_word_embeddings": True,
        },
    ),
    ZooModel(
        name="neox-mixed",
        family="gpt_neox",
        mix=_BOTH,
        tokenizer=TokenizerRecipe(kind="unigram", vocab_size=2560, style="bos"),
        train=TrainRecipe(objective="next-token", steps=360, seed=3),
        config={
            "num_hidden_layers": 4,
            "hidden_size": 208,
            "intermediate_size": 832,
            "num_attention_heads": 4,
            "max_position_embeddings": POSITIONS,
            "rotary_pct": 0.5,
            "hidden_act": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
        },
    ),
    ZooModel(
        name="bert-mixed",
        family="bert",
        mix=_BOTH,
        tokenizer=TokenizerRecipe(kind="wordpiece", vocab_size=3072, style="cls-sep"),
        train=TrainRecipe(objective="masked-token", steps=300, seed=4),
        config={
            "num_hidden_layers": 4,
            "hidden_size": 176,
            "intermediate_size": 704,
            "num_attention_heads": 4,
            "max_position_embeddings": POSITIONS,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    ),
    ZooModel(
        name="t5-mixed",
        family="t5",
        mix=_BOTH,
        tokenizer=TokenizerRecipe(kind="unigram", vocab_size=2304, style="eos"),
        train=TrainRecipe(objective="span-corruption", steps=300, seed=5),
        config={
            "num_layers": 4,
            "num_decoder_layers": 2,
            "d_model": 160,
            "d_kv": 32,
            "d_ff": 448,
            "num_heads": 5,
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": 0.0,
        },
    ),
    ZooModel(
        name="student",
        family="llama",
        role="student",
        mix=_BOTH,
        tokenizer=TokenizerRecipe(kind="byte-bpe", vocab_size=1280, style="bos"),
        train=TrainRecipe(objective="next-token", steps=0, seed=6),
        config={
            "num_hidden_layers": 4,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": POSITIONS,
            "tie_word_embeddings": True,
        },
    ),
)

_TWIN = ZooModel(
    name="llama-twin",
    family="llama",
    mix=_BOTH,
    tokenizer=_MODELS[-1].tokenizer,
    tokenizer_of=_MODELS[-1].name,
    train=TrainRecipe(objective="next-token", steps=1000, seed=7),
    config=_MODELS[1].config,
)
"""Shares the student's tokenizer, so that its logits can be distilled directly."""

_STRONG_STEPS = {"next-token": 1000, "masked-token": 600, "span-corruption": 600}
_STRONG_READING = {
    "gpt2-prose": ("gpt2-mixed", _BOTH),
    "qwen-code": ("qwen-code", {"code": 1.0}),
    "neox-mixed": ("neox-prose", {"prose": 1.0}),
}
"""What the next-token teachers are called and read at the ``strong`` scale. The family
that learns most from a text becomes a specialist: a generalist that is better than each
specialist in its own domain would leave nothing to choose between teachers."""


def _strong(model: ZooModel) -> ZooModel:
    """Train longer, and specialists on nothing but their own domain."""
    name, mix = _STRONG_READING.get(model.name, (model.name, model.mix))
    steps = _STRONG_STEPS[model.train.objective]
    return replace(model, name=name, mix=mix, train=replace(model.train, steps=steps))


def _real(model: ZooModel) -> ZooModel:
    """A student with room for what a pretrained teacher knows."""
    sizes = {
        "num_hidden_layers": 6,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }
    tokenizer = replace(model.tokenizer, vocab_size=4096)
    return replace(model, tokenizer=tokenizer, config={**model.config, **sizes})


_TINY_LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "num_decoder_layers")
_TINY_WIDTHS = {
    "n_embd": 48,
    "hidden_size": 48,
    "intermediate_size": 96,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 96,
}


def _tiny(model: ZooModel) -> ZooModel:
    """Cut a recipe down to a second of training, keeping its family's features."""
    config = dict(model.config)
    config.update({key: 2 for key in _TINY_LAYERS if key in config})
    config.update({key: _TINY_WIDTHS[key] for key in _TINY_WIDTHS if key in config})
    heads = {"n_head": 4, "num_attention_heads": 4, "num_heads": 4}
    config.update({key: heads[key] for key in heads if key in config})
    if model.role == "student":
        config.update({"hidden_size": 32, "intermediate_size": 64})
    steps = min(model.train.steps, 12)
    return replace(
        model,
        config=config,
        tokenizer=replace(
            model.tokenizer, vocab_size=model.tokenizer.vocab_size // 4 + 128
        ),
        train=replace(model.train, steps=steps, batch=4, length=64, warmup=2),
        text_chars=60_000,
        eval_samples=32,
    )
