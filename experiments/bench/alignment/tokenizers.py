"""Tokenizers to measure with: real ones where they lie beside the checkout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

REAL = ("gpt2", "llama3", "qwen2.5", "llama2", "bert-base-uncased", "t5-small")


def real_tokenizers(folder: Path) -> dict[str, Any]:
    """Load the tokenizers of a folder, by the names of their kinds.

    Raises:
        FileNotFoundError: one is missing.
    """
    from teacher.loading.tokenizer import load_tokenizer

    loaded = {}
    for name in REAL:
        path = folder / "tokenizers" / name
        if not (path / "tokenizer.json").is_file():
            raise FileNotFoundError(
                f"{path} holds no tokenizer.json; give a folder with "
                f"tokenizers/{{{','.join(REAL)}}}, or leave --data out"
            )
        loaded[name] = load_tokenizer(name, str(path), {"trust_remote_code": False})
    return loaded


def trained_tokenizers(texts: list[str]) -> dict[str, Any]:
    """Train one small tokenizer of each kind on some texts, in seconds."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    sample = [text[:1500] for text in texts]
    english = [text for text in sample if text.isascii()]

    def trained(
        model: Any, trainer: Any, lines: list[str] = sample, **parts: Any
    ) -> Any:
        backend = Tokenizer(model)
        for name, part in parts.items():
            setattr(backend, name, part)
        backend.train_from_iterator(lines, trainer)
        return PreTrainedTokenizerFast(tokenizer_object=backend)

    def byte_level(size: int, lines: list[str], normalizer: Any = None) -> Any:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        parts = {"normalizer": normalizer} if normalizer else {}
        return trained(
            models.BPE(),
            trainers.BpeTrainer(
                vocab_size=size, initial_alphabet=alphabet, show_progress=False
            ),
            lines,
            pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoder=decoders.ByteLevel(),
            **parts,
        )

    unknown: dict[str, Any] = {"special_tokens": ["<unk>"], "show_progress": False}
    hexadecimal: dict[str, Any] = {
        "special_tokens": ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        "show_progress": False,
    }
    fallback = trained(
        models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True),
        trainers.BpeTrainer(vocab_size=2000, limit_alphabet=200, **hexadecimal),
        normalizer=normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        ),
        pre_tokenizer=pre_tokenizers.Split("▁", "merged_with_next"),
        decoder=decoders.Metaspace(),
    )
    # the split only keeps training quick; such models merge across it
    fallback.backend_tokenizer.pre_tokenizer = None
    return {
        "byte BPE 2k": byte_level(2000, english),
        "byte BPE 4k": byte_level(4000, sample),
        "byte BPE 3k NFC": byte_level(3000, sample, normalizers.NFC()),
        "BPE with fallback": fallback,
        "WordPiece": trained(
            models.WordPiece(unk_token="<unk>"),
            trainers.WordPieceTrainer(vocab_size=2000, **unknown),
            normalizer=normalizers.BertNormalizer(),
            pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
            decoder=decoders.WordPiece(),
        ),
        "Unigram": trained(
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=1500, unk_token="<unk>", **unknown),
            normalizer=normalizers.NFKC(),
            pre_tokenizer=pre_tokenizers.Metaspace(),
            decoder=decoders.Metaspace(),
        ),
    }


_PIECES = (
    "深度学习模型把文本切成词元。",
    "她说：「明天再见」👋",
    "家庭👨‍👩‍👧‍👦和旗帜🇨🇳🇩🇪",
    "饕餮盛宴，龘龘不休！",
    "mixed 中英文 text",
    "価格は１２３円です😀",
    "数据😂😂与 KV cache",
    "人工智能改变世界🌍。",
    "émigré naïve Übung ",
)


def ascii_texts(count: int, size: int) -> list[str]:
    """``count`` English texts of ``size`` characters, out of Python's own manual."""
    from pydoc_data.topics import topics

    line = "\n".join(topics[name] for name in sorted(topics))
    line = line.encode("ascii", "ignore").decode()
    return list(_cut(line, count, size))


def mixed_texts(count: int, size: int) -> list[str]:
    """``count`` texts of ``size`` characters of Chinese, emoji and accents."""
    import random

    chosen = random.Random(0)
    line = "".join(chosen.choice(_PIECES) for _ in range(count * size // 6))
    return list(_cut(line, count, size))


def _cut(line: str, count: int, size: int) -> Iterator[str]:
    room = len(line) - size
    for index in range(count):
        start = index * size % room
        yield line[start : start + size]
