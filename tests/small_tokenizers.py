"""Small real tokenizers of every kind, trained on ``small_text.txt`` in a second.

Each has the pipeline of a known family, so that what must hold is held on every
machine; those in ``../shared/data``, if any, only widen it (:func:`outside`).

``small_text.txt``: verse from Richard III and prose from the novel 红楼梦, both in the
public domain; the rest was written for it. It does not change: ids of the tests rest on
it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis.strategies import characters
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from teacher.loading import tokenizer as loading
from teacher.loading.tokenizer import load_tokenizer

PIECES = Path(__file__).with_name("small_pieces.json")
"""Models of trainers that take any of equally good pieces, trained once and kept, so
that every process has the same; one that is not in there is trained anew."""
CHARACTERS = characters(exclude_categories=["Cs"])
"""Of made-up text. Hypothesis' own alphabet is the same, found by trying a codec on
every character there is: two seconds of a checkout's first session."""
SHARED = Path(__file__).parents[2] / "shared" / "data"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How cl100k and Llama 3 split text; Qwen's has single digits."""
_HEXADECIMAL = [f"<0x{byte:02X}>" for byte in range(256)]
_HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}"
    "<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
)


@cache
def sections() -> dict[str, str]:
    """The parts of the text by name: plays, novel, maths, news, Chinese …"""
    text = Path(__file__).with_name("small_text.txt").read_bytes().decode()
    parts = (part.split("\n", 1) for part in text.split("=== ")[1:])
    return {name: body.removesuffix("\n") for name, body in parts}


def texts() -> list[str]:
    """What all are trained on, the news and the code more than once."""
    found = sections()
    return [*found.values(), *3 * [found["news"]], found["code"], found["Chinese"]]


def small(name: str) -> Any:
    """One of :data:`KINDS`, new; an added token or a setting stays on this copy."""
    return _wrapped(name, Tokenizer.from_str(_serialised(name)))


@cache
def _serialised(name: str) -> str:
    return KINDS[name][0]().to_str()


def _wrapped(name: str, raw: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, clean_up_tokenization_spaces=False, **KINDS[name][1]
    )


def outside(*names: str) -> list[str]:
    """Those of these tokenizers, or all, that lie in ``../shared/data``."""
    here = sorted(p.parent.name for p in SHARED.glob("tokenizers/*/tokenizer.json"))
    return [name for name in here if not names or name in names]


@cache
def real(name: str) -> Any:
    """One of :func:`outside`, loaded once a session; settings must not stay on it."""
    file = described(name)
    with patch.object(loading, "_file", lambda *_: file):
        return load_tokenizer(name, str(SHARED / "tokenizers" / name), {})


@cache
def described(name: str) -> Tokenizer:
    """What the file of such a tokenizer says, read once; likewise."""
    return loading._file(name, str(SHARED / "tokenizers" / name), {})


# --- byte-level


def _bytes(
    size: int = 900,
    specials: tuple[str, ...] = ("<|endoftext|>",),
    splitter: Any = None,
    normalizer: Any = None,
    post: Any = None,
    ignore_merges: bool = False,
) -> Tokenizer:
    raw = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        raw.normalizer = normalizer
    raw.pre_tokenizer = splitter or pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = post or processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts(), trainer)
    return raw


def _alphabet(raw: Tokenizer, read: Iterable[str], size: int) -> list[str]:
    """The most frequent characters; of equally frequent ones the first, not any."""
    counts = Counter("".join(map(raw.normalizer.normalize_str, read)))
    return sorted(counts, key=lambda char: (-counts[char], char))[:size]


def _kept(
    name: str, raw: Tokenizer, trainer: Any, read: list[str], specials: list[str]
) -> Tokenizer:
    """Give a tokenizer the model that was trained for it, or train that anew."""
    models_by_name = json.loads(PIECES.read_text()) if PIECES.exists() else {}
    if name not in models_by_name:
        raw.train_from_iterator(read, trainer)
        models_by_name[name] = json.loads(raw.to_str())["model"]
        PIECES.write_text(json.dumps(models_by_name, ensure_ascii=False, indent=0))
        return raw
    state = json.loads(raw.to_str()) | {"model": models_by_name[name]}
    made = Tokenizer.from_str(json.dumps(state))
    made.add_special_tokens(specials)
    return made


def _split(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior, invert),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _around(raw: Tokenizer, single: str) -> Any:
    marks = [(part, raw.token_to_id(part)) for part in single.split() if part != "$A"]
    return processors.TemplateProcessing(single=single, special_tokens=marks)


def _plain() -> Tokenizer:
    """GPT-2's."""
    return _bytes()


def _renumbered() -> Tokenizer:
    """The pieces of ``bytes`` under other ids behind ``</s>``: OPT's."""
    state = json.loads(_serialised("bytes"))
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = sorted(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
    pieces.remove("<|endoftext|>")
    vocabulary = {piece: id_ for id_, piece in enumerate([*specials, *pieces[::-1]])}
    merges = [tuple(merge) for merge in state["model"]["merges"]]
    raw = Tokenizer(models.BPE(vocabulary, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(name, normalized=True) for name in specials])
    raw.post_processor = _around(raw, "</s> $A")
    return raw


def _composed() -> Tokenizer:
    """NFC, runs of blanks as added tokens, trimmed offsets: GPT-NeoX's."""
    raw = _bytes(
        1000,
        ("<|endoftext|>", "<|padding|>"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        normalizers.NFC(),
        processors.ByteLevel(add_prefix_space=False, trim_offsets=True),
    )
    raw.add_tokens([AddedToken(" " * count, normalized=True) for count in (8, 4, 3, 2)])
    return raw


def _headers() -> Tokenizer:
    """Numbers in threes, bos in front, a template that trims: Llama 3's."""
    names = ("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|start_header_id|>")
    names += ("<|end_header_id|>", "<|eot_id|>")
    raw = _bytes(1400, names, _split(_WORDS), ignore_merges=True)
    keep = processors.ByteLevel(trim_offsets=False)
    raw.post_processor = processors.Sequence([keep, _around(raw, f"{names[0]} $A")])
    return raw


def _chatml() -> Tokenizer:
    """NFC, single digits, a template that keeps blanks: Qwen's."""
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    digits = _split(_WORDS.replace("{1,3}", ""))
    return _bytes(1300, names, digits, normalizers.NFC())


def _removed() -> Tokenizer:
    """cl100k's splitting written as all that may stay: OLMo 2's."""
    return _bytes(1100, splitter=_split(_WORDS, "removed", invert=True))


def _split_after() -> Tokenizer:
    """Further splits after the bytes, trimmed offsets: Falcon's."""
    steps = [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ]
    trims = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    return _bytes(800, splitter=pre_tokenizers.Sequence(steps), post=trims)


def _blank_first() -> Tokenizer:
    """A blank put before a text, trimmed offsets, ``<mask>`` takes the blank before it:
    RoBERTa's."""
    names = ("<s>", "<pad>", "</s>", "<unk>")
    raw = _bytes(900, names, pre_tokenizers.ByteLevel(add_prefix_space=True))
    raw.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    raw.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True
    )
    return raw


def _lower_bytes() -> Tokenizer:
    """Lower case and NFKC before bytes, added tokens of every flag."""
    steps = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    raw = _bytes(700, normalizer=steps)
    raw.add_tokens(
        [
            AddedToken("[right]", rstrip=True),
            AddedToken("[word]", single_word=True),
            AddedToken("[Folded]", normalized=True),
        ]
    )
    return raw


def _longest() -> Tokenizer:
    """The longest match over bytes, not merges: RWKV's."""
    end = "<|end|>"
    pieces = json.loads(_bytes(1200, (end,), _split(_WORDS)).to_str())["model"]["vocab"]
    raw = Tokenizer(
        models.WordPiece(
            pieces,
            unk_token=end,
            continuing_subword_prefix="",
            max_input_chars_per_word=10**8,
        )
    )
    raw.pre_tokenizer = _split(_WORDS)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.ByteLevel(trim_offsets=False)
    raw.add_special_tokens([end])
    return raw


# --- pieces with ▁


def _fallback(size: int, specials: tuple[str, ...] = ("<unk>", "<s>", "</s>")) -> Any:
    """BPE with bytes for the rest, its blanks still to be written as ``▁``."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    # the split only keeps pieces inside words; such models have none
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*specials, *_HEXADECIMAL],
        initial_alphabet=_alphabet(raw, texts(), 150),
        limit_alphabet=150,
        show_progress=False,
    )
    raw.train_from_iterator(texts(), trainer)
    state = json.loads(raw.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["content"] in specials
    ]
    state["pre_tokenizer"] = None
    raw = Tokenizer.from_str(json.dumps(state))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    raw.post_processor = _around(raw, "<s> $A")
    return raw


def _legacy() -> Tokenizer:
    """A blank before the text and after every special token: Llama 2's."""
    return _fallback(1100)


def _metaspace() -> Tokenizer:
    """A blank before the text alone, ends that take the blanks behind them: Phi 3's."""
    raw = _fallback(1200)
    raw.normalizer = None
    raw.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    raw.add_special_tokens(
        [AddedToken("<|end|>", rstrip=True), AddedToken("<|user|>", rstrip=True)]
    )
    return raw


def _no_blank() -> Tokenizer:
    """No blank before the text: Gemma's."""
    raw = _fallback(1300, ("<pad>", "<eos>", "<bos>", "<unk>", "<s>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    raw.post_processor = _around(raw, "<bos> $A <eos>")
    return raw


def _unigram(splitter: Any, size: int, specials: list[str]) -> Tokenizer:
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = splitter
    raw.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=specials,
        unk_token="<unk>",
        max_piece_length=12,
        show_progress=False,
    )
    # a vocabulary that knows no Chinese has unknown characters
    known = [part for part in sections().values() if not _chinese(part)]
    return _kept(f"unigram {size}", raw, trainer, known, specials)


def _chinese(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def _unigram_end() -> Tokenizer:
    """NFKC, no Chinese, runs of blanks shrink, eos at the end: T5's."""
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    specials = ["<pad>", "</s>", "<unk>"]
    raw = _unigram(pre_tokenizers.Sequence(steps), 600, specials)
    raw.post_processor = _around(raw, "$A </s>")
    return raw


def _unigram_left() -> Tokenizer:
    """NFKC, bytes for the rest, special tokens at the end: ChatGLM's."""
    specials = ["<unk>", "<pad>", "[gMASK]", "<sop>", "<eop>"]
    raw = _unigram(pre_tokenizers.Metaspace(split=False), 700, specials)
    state = json.loads(raw.to_str())["model"]
    vocabulary = [(piece, score) for piece, score in state["vocab"]]
    worst = min(score for _, score in vocabulary)
    vocabulary += [("深度", worst / 2), ("饕", worst / 2)]
    vocabulary += [(piece, worst - 10.0) for piece in _HEXADECIMAL]
    raw.model = models.Unigram(vocabulary, state["unk_id"], byte_fallback=True)
    raw.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]
    )
    raw.post_processor = _around(raw, "$A [gMASK] <sop>")
    return raw


# --- words and their ends


def _words(lowercase: bool) -> Tokenizer:
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    read = [text.lower() for text in texts()]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=900,
        special_tokens=specials,
        limit_alphabet=250,
        show_progress=False,
    )
    name = "words lower" if lowercase else "words as written"
    raw = _kept(name, raw, trainer, read, specials)
    raw.post_processor = _around(raw, "[CLS] $A [SEP]")
    return raw


def _words_lower() -> Tokenizer:
    """Lower case without accents: BERT's."""
    return _words(lowercase=True)


def _words_as_written() -> Tokenizer:
    """Knows no capital: the Chinese BERT's."""
    return _words(lowercase=False)


_END = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
_ROUND = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_CLS = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
KINDS: dict[str, tuple[Callable[[], Tokenizer], dict[str, Any]]] = {
    "bytes": (_plain, _END),
    "bytes-renumbered": (
        _renumbered,
        {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
        | {"unk_token": "</s>"},
    ),
    "bytes-nfc": (_composed, _END | {"pad_token": "<|padding|>"}),
    "bytes-headers": (
        _headers,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
        | {"pad_token": "<|pad|>", "chat_template": _HEADERS},
    ),
    "bytes-chatml": (
        _chatml,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        | {"chat_template": _CHATML},
    ),
    "bytes-removed": (_removed, _END),
    "bytes-split-after": (_split_after, _END),
    "bytes-blank-first": (
        _blank_first,
        _ROUND | {"pad_token": "<pad>", "mask_token": "<mask>"},
    ),
    "bytes-lower": (_lower_bytes, _END),
    "bytes-longest": (_longest, {"eos_token": "<|end|>", "pad_token": "<|end|>"}),
    "metaspace-legacy": (_legacy, _ROUND),
    "metaspace": (_metaspace, _ROUND),
    "metaspace-no-blank": (
        _no_blank,
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
        | {"unk_token": "<unk>"},
    ),
    "unigram-end": (
        _unigram_end,
        {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    ),
    "unigram-left": (
        _unigram_left,
        {"bos_token": "<sop>", "eos_token": "<eop>", "pad_token": "<pad>"}
        | {"unk_token": "<unk>", "padding_side": "left"},
    ),
    "words-lower": (_words_lower, _CLS),
    "words": (_words_as_written, _CLS),
}
"""How to train each, and its special tokens and settings."""

EVERY = [*KINDS, *outside()]
"""All there are on this machine."""
