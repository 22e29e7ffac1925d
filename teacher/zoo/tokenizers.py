"""Train a tokenizer of each kind and save it as a fast Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from teacher.zoo.recipes import TokenizerRecipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.models import Model
    from transformers import PreTrainedTokenizerFast

SENTINELS = 32
"""Span markers ``<extra_id_0>`` … of a tokenizer in style ``eos``."""

# A word with the blank before it, a number, punctuation, or a line end with the
# indentation after it: as GPT-2's pattern, but indentation stays in one piece.
_PIECES = r" ?[\p{L}_]+| ?\p{N}+| ?[^\s\p{L}\p{N}_]+|\s*\n *|\s+(?!\S)|\s+"


def train_tokenizer(
    recipe: TokenizerRecipe, texts: Sequence[str]
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts.

    Args:
        recipe: its kind, size and style.
        texts: training text.

    Returns:
        A fast tokenizer with bos, eos and pad set, which ``save_pretrained`` writes
        and ``AutoTokenizer.from_pretrained`` loads. ``byte-bpe`` and causal
        ``unigram`` ones encode any text without an unknown token.

    Raises:
        ValueError: an unknown kind or style.
    """
    builders = {"byte-bpe": _byte_bpe, "unigram": _unigram, "wordpiece": _wordpiece}
    if recipe.kind not in builders or recipe.style not in _SPECIALS:
        raise ValueError(
            f"tokenizer kind {recipe.kind!r} or style {recipe.style!r} is unknown; "
            f"kinds: {', '.join(builders)}; styles: {', '.join(_SPECIALS)}"
        )
    raw = builders[recipe.kind](recipe, texts)
    _surround(raw, recipe.style)
    return _wrap(raw, recipe.style)


_SPECIALS: dict[str, dict[str, str]] = {
    "none": {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
    },
    "bos": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "eos": {
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
    },
    "cls-sep": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    },
}


def _special_tokens(style: str) -> list[str]:
    return list(dict.fromkeys(_SPECIALS[style].values()))


def _sentinels(style: str) -> list[str]:
    return [f"<extra_id_{i}>" for i in range(SENTINELS)] if style == "eos" else []


def _byte_bpe(recipe: TokenizerRecipe, texts: Sequence[str]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, trainers
    from tokenizers import pre_tokenizers as pre

    raw = Tokenizer(models.BPE())
    if recipe.style == "none":  # GPT-2's own pattern
        raw.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    else:
        split = pre.Split(Regex(_PIECES), "isolated")
        raw.pre_tokenizer = pre.Sequence(
            [split, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=_special_tokens(recipe.style),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def _unigram(recipe: TokenizerRecipe, texts: Sequence[str]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre

    metaspace = pre.Metaspace(split=False, prepend_scheme="never")
    raw = Tokenizer(models.Unigram())
    if recipe.style == "eos":  # as T5: NFKC, and runs of blanks become one
        raw.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")]
        )
        metaspace = pre.Metaspace(split=True, prepend_scheme="always")
        raw.pre_tokenizer = metaspace
    else:
        split = pre.Split(Regex(_PIECES), "isolated")
        raw.pre_tokenizer = pre.Sequence([split, metaspace])
    bytes_ = [] if recipe.style == "eos" else [f"<0x{i:02X}>" for i in range(256)]
    specials = list(dict.fromkeys([*_special_tokens(recipe.style), "<unk>"]))
    trainer = trainers.UnigramTrainer(
        vocab_size=recipe.vocab_size - len(bytes_) - len(_sentinels(recipe.style)),
        special_tokens=specials,
        unk_token="<unk>",
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    if bytes_:
        raw.model = _with_bytes(raw, bytes_)
        raw.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")]
        )
    else:
        raw.decoder = decoders.Metaspace(prepend_scheme="always")
    return raw


def _with_bytes(raw: Tokenizer, bytes_: list[str]) -> Model:
    """Add the 256 byte pieces, used only where no other piece fits."""
    import json

    from tokenizers import models

    model = json.loads(raw.to_str())["model"]
    worst = min(score for _, score in model["vocab"])
    vocab = [(piece, score) for piece, score in model["vocab"]]
    vocab += [(piece, worst - 10.0) for piece in bytes_]
    return models.Unigram(vocab, model["unk_id"], byte_fallback=True)


def _wordpiece(recipe: TokenizerRecipe, texts: Sequence[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre

    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    raw.pre_tokenizer = pre.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=_special_tokens(recipe.style),
        limit_alphabet=400,
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def _surround(raw: Tokenizer, style: str) -> None:
    """Make encoding put the style's special tokens around a text."""
    from tokenizers import processors

    special = _SPECIALS[style]
    single = {
        "none": None,
        "bos": f"{special['bos_token']} $A",
        "eos": f"$A {special['eos_token']}",
        "cls-sep": f"{special['bos_token']} $A {special['eos_token']}",
    }[style]
    if single is None:
        raw.post_processor = processors.ByteLevel(trim_offsets=False)
        return
    template = processors.TemplateProcessing(
        single=single,
        special_tokens=[(t, raw.token_to_id(t)) for t in _special_tokens(style)],
    )
    keep_blanks = processors.ByteLevel(trim_offsets=False)
    byte_level = type(raw.model).__name__ == "BPE"
    raw.post_processor = (
        processors.Sequence([keep_blanks, template]) if byte_level else template
    )


def _wrap(raw: Tokenizer, style: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        additional_special_tokens=_sentinels(style) or None,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **_SPECIALS[style],
    )
