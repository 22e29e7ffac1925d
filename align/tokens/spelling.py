"""What the ids of a vocabulary spell, read off a tokenizer's own decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from align.errors import InputError
from align.tokens.pieces import byte_alphabet, byte_of_piece

Pieces = Sequence[bytes | None]
"""The bytes of text that each id stands for; None where it stands for none."""


def token_bytes(tokenizer: Any) -> list[bytes | None]:
    """The bytes of text that each id of a vocabulary stands for.

    Args:
        tokenizer: a fast Hugging Face tokenizer, byte-level or SentencePiece.

    Returns:
        One entry an id; None for special and unused ids.

    Raises:
        ValueError: the tokenizer is slow, or its tokens do not spell their blanks, as
            in WordPiece.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"tokenizer {type(tokenizer).__name__} is not a fast one; load its "
            "tokenizer.json with AutoTokenizer or PreTrainedTokenizerFast"
        )
    backend = tokenizer.backend_tokenizer
    spell = _speller(backend)
    added = backend.get_added_tokens_decoder()
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=False)
    size = max([*vocabulary.values(), *added], default=-1) + 1
    out: list[bytes | None] = [None] * size
    for piece, id_ in vocabulary.items():
        out[id_] = spell(piece) or None
    for id_, token in added.items():
        out[id_] = None if token.special else token.content.encode()
    return out


def _speller(backend: Any) -> Callable[[str], bytes]:
    """How a tokenizer's pieces are turned into bytes, by its own decoder."""
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder else {}
    steps = decoder.get("decoders", [decoder])
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()
        return lambda piece: bytes(alphabet[c] for c in piece if c in alphabet)
    if not kinds & {"Metaspace", "ByteFallback", "Replace"}:
        raise InputError(
            f"a vocabulary of decoder {decoder.get('type')!r} does not spell blanks, "
            "so its tokens have no bytes; give a byte-level or SentencePiece tokenizer"
        )
    changes = [
        (step["pattern"]["String"], step["content"])
        for step in steps
        if step.get("type") == "Replace" and "String" in step["pattern"]
    ]

    def spell(piece: str) -> bytes:
        byte = byte_of_piece(piece)
        if byte is not None:
            return bytes([byte])
        for old, new in changes:
            piece = piece.replace(old, new)
        return piece.replace("▁", " ").encode()

    return spell
