"""Which pieces of a model's own stand for each piece of a vocabulary it is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from align.tokens.pieces import byte_alphabet, byte_of_piece
from align.tokens.spelling import token_bytes
from teacher.conversion.splitting import without_first_blank

ROLES = ("eos", "bos", "pad", "unk", "cls", "sep", "mask")
"""What special tokens are for; an id that has several is looked up in this order."""
_STANDS_IN = {"bos": "eos", "eos": "bos", "cls": "bos", "sep": "eos"}
"""The role that is taken where a vocabulary has none of the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cuts:
    """For each id of a new vocabulary the old ids whose rows stand for it."""

    old: tuple[tuple[int, ...], ...]
    """By new id, in the order of the text; empty where nothing does."""
    kept: int
    """New pieces that are pieces of the old vocabulary."""
    cut: int
    """Those that are read as other old ones, mostly several."""
    unmatched: int
    """Those that are read as unknown or not at all: special tokens of other roles, and
    characters that the old vocabulary has not."""


def cut_vocabulary(new: Any, old: Any, new_rows: int, old_rows: int) -> Cuts:
    """Cut every piece of a new vocabulary by an old tokenizer.

    A piece is cut as it stands in running text: with the blank it begins with, and
    without one that the old tokenizer puts before a whole text. Bytes that are no whole
    characters are spelled by the old vocabulary's bytes. Special tokens go by their
    role, then by their name. Ids that the new tokenizer never gives take the place of
    ids that the old one never gives, in their order.

    Args:
        new: a fast tokenizer whose tokens spell text (byte-level or SentencePiece).
        old: likewise.
        new_rows: rows of the new embedding, at least the new tokenizer's largest id
            + 1.
        old_rows: rows of the old one.

    Returns:
        The cuts, one entry a row.

    Raises:
        InputError: a tokenizer is slow, or its tokens do not spell their blanks.
    """
    pieces, names = token_bytes(new), _names(new)
    by_role, cutter = _by_role(new, old), _Cutter(old)
    spare = iter(sorted(set(range(old_rows)) - set(_names(old))))
    rows: list[tuple[int, ...]] = []
    kept = cut = 0
    for id_ in range(new_rows):
        piece = pieces[id_] if id_ < len(pieces) else None
        if id_ not in names:
            row = tuple(free for free in [next(spare, None)] if free is not None)
        elif piece is None:
            row = by_role.get(id_) or cutter.special(names[id_])
            kept += bool(row)
        else:
            row = cutter(piece, names[id_])
            same = cutter.spelled(row) == piece
            kept += same and len(row) == 1
            cut += cutter.reads(row) and not (same and len(row) == 1)
        rows.append(row)
    return Cuts(old=tuple(rows), kept=kept, cut=cut, unmatched=len(names) - kept - cut)


def role_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of a tokenizer's special tokens by their roles."""
    ids = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ROLES}
    return {role: int(id_) for role, id_ in ids.items() if id_ is not None}


def _by_role(new: Any, old: Any) -> dict[int, tuple[int, ...]]:
    theirs, out = role_ids(old), dict[int, tuple[int, ...]]()
    for stand_in in (False, True):
        for role, id_ in role_ids(new).items():
            known = theirs.get(_STANDS_IN.get(role, "") if stand_in else role)
            if known is not None:
                out.setdefault(id_, (known,))
    return out


def _names(tokenizer: Any) -> dict[int, str]:
    """Every token as its vocabulary writes it, by id."""
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    return {id_: name for name, id_ in vocabulary.items()}


class _Cutter:
    """Cuts the bytes of a foreign piece into ids of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        self._pieces = token_bytes(tokenizer)
        self._ids: dict[str, int] = {n: id_ for id_, n in _names(tokenizer).items()}
        self._by_bytes: dict[bytes, int] = {}
        for name, id_ in self._ids.items():
            piece = self._pieces[id_]
            if piece is not None and byte_of_piece(name) is None:
                first = self._by_bytes.setdefault(piece, id_)
                self._by_bytes[piece] = min(first, id_)
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        without_first_blank(described)
        self._plain = Tokenizer.from_str(json.dumps(described))
        self._plain.no_truncation()
        self._plain.no_padding()
        self._bytes = _speller_of_bytes(self._plain, self._ids)

    def __call__(self, piece: bytes, name: str) -> tuple[int, ...]:
        """The ids of a piece, which its own vocabulary writes ``name``."""
        alike = self._ids.get(name)
        if alike is not None and self._pieces[alike] == piece:
            return (alike,)
        if piece in self._by_bytes:
            return (self._by_bytes[piece],)
        try:
            ids = self._plain.encode(piece.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError:
            return self._bytes(piece)
        return tuple(ids) if self.reads(ids) else self._bytes(piece) or tuple(ids)

    def special(self, name: str) -> tuple[int, ...]:
        """The special token of the same name."""
        id_ = self._ids.get(name)
        return (id_,) if id_ is not None and self._pieces[id_] is None else ()

    def reads(self, ids: Sequence[int]) -> bool:
        """Whether ids hold text alone, which a normaliser may have changed, and no
        unknown token."""
        return bool(ids) and all(self._pieces[id_] is not None for id_ in ids)

    def spelled(self, ids: Sequence[int]) -> bytes:
        """The text of ids; special tokens have none."""
        return b"".join(self._pieces[id_] or b"" for id_ in ids)


def _speller_of_bytes(
    tokenizer: Any, ids: dict[str, int]
) -> Callable[[bytes], tuple[int, ...]]:
    """How a vocabulary spells bytes that are no whole characters.

    A byte-level one merges them as it does those of a text; one with a token for each
    byte cuts the characters that are whole and writes the other bytes one by one; any
    other has nothing for them.
    """
    if '"ByteLevel"' in tokenizer.decoder.__getstate__().decode():
        letters = {byte: letter for letter, byte in byte_alphabet().items()}
        return lambda piece: tuple(
            token.id
            for token in tokenizer.model.tokenize("".join(letters[b] for b in piece))
        )

    def spell(piece: bytes) -> tuple[int, ...]:
        out: list[int] = []
        for part in _characters(piece):
            if isinstance(part, str):
                out += tokenizer.encode(part, add_special_tokens=False).ids
            elif f"<0x{part:02X}>" in ids:
                out.append(ids[f"<0x{part:02X}>"])
            else:
                return ()
        return tuple(out)

    return spell


def _characters(piece: bytes) -> list[str | int]:
    """Stretches of whole characters, and the bytes between them."""
    parts: list[str | int] = []
    while piece:
        try:
            parts.append(piece.decode())
            break
        except UnicodeDecodeError as error:
            whole = piece[: error.start].decode()
            parts += [whole] if whole else []
            parts.append(piece[error.start])
            piece = piece[error.start + 1 :]
    return parts
