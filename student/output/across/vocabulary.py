"""What the tokens of two vocabularies have in common, read off their bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from align.tokens.pieces import byte_alphabet
from align.tokens.spelling import Pieces, token_bytes

_LONGEST = 3
"""Bytes of the longest n-gram."""


@dataclass(frozen=True, slots=True, eq=False)
class CommonPieces:
    """A sparse map of two vocabularies onto the K byte strings that both have."""

    student: Tensor
    """(V_s,) int64 in [-1, K): the piece that each student token begins with, -1 for
    special, unused and untranslatable ones."""
    teacher: Tensor
    """(V_t,) int64, the same of the teacher's."""
    size: int
    """K."""

    def to(self, device: torch.device) -> CommonPieces:
        """Move the tensors."""
        return CommonPieces(self.student.to(device), self.teacher.to(device), self.size)


@dataclass(frozen=True, slots=True, eq=False)
class Spelling:
    """A tokenizer with what its tokens spell, which takes long to read."""

    tokenizer: Any
    pieces: Pieces
    """See :func:`token_bytes`."""

    @staticmethod
    def of(tokenizer: Any) -> Spelling:
        """Read a tokenizer.

        Raises:
            ValueError: see :func:`token_bytes`.
        """
        return Spelling(tokenizer, token_bytes(tokenizer))


def byte_vectors(pieces: Pieces, width: int = 256) -> Tensor:
    """A vector for each token, near to those that are spelled alike.

    Args:
        pieces: V tokens, of either vocabulary.
        width: D, >= 1.

    Returns:
        (V, D) float32: signed counts of the n-grams of 1 to 3 bytes, ends included,
        hashed into D places, the same for every vocabulary. Zero where a token has no
        bytes, so that it is like no other.

    Source:
        Character n-grams as parts of words: Bojanowski et al. 2017 (arXiv 1607.04606);
        signed hashing: Weinberger et al. 2009 (arXiv 0902.2206).
    """
    if width < 1:
        raise ValueError(f"width must be >= 1, got {width}")
    out = np.zeros((len(pieces), width), np.float32)
    for start in range(0, len(pieces), 8192):
        some = pieces[start : start + 8192]
        marked = [[256, *piece, 257] if piece else [] for piece in some]
        owner = np.repeat(np.arange(len(some)), [len(m) for m in marked])
        letters = np.fromiter((x for m in marked for x in m), np.uint64, len(owner))
        code = np.zeros_like(letters)
        for n in range(1, _LONGEST + 1):
            ends = np.arange(len(letters) - n + 1)
            code = code[: len(ends)] * np.uint64(1000003) + letters[n - 1 :] + 1
            inside = ends[owner[ends] == owner[ends + n - 1]]
            mixed = code[inside] * np.uint64(0x9E3779B97F4A7C15)
            sign = 1.0 - 2.0 * ((mixed >> np.uint64(32)) & np.uint64(1))
            place = owner[inside] * width + ((mixed >> np.uint64(33)) % width).astype(
                int
            )
            counts = np.bincount(place, sign, minlength=len(some) * width)
            out[start : start + len(some)] += counts.reshape(-1, width)
    return torch.from_numpy(out)


def common_pieces(
    student: Spelling,
    teacher: Spelling,
    student_size: int = 0,
    teacher_size: int = 0,
) -> CommonPieces:
    """Map every token of two vocabularies to a piece that both have.

    A token that both have is itself. Any other is cut by the other tokenizer, and
    stands for the first token of that, cut again by its own tokenizer where it does
    not have it either, and so on: each cut is shorter. So both models' next tokens
    become the same outcomes; :func:`student.output.pool_logits` makes logits of them
    for any divergence.

    Args:
        student: a tokenizer that was read.
        teacher: likewise.
        student_size: rows of the student's head, where they are more than ids.
        teacher_size: rows of the teacher's head.

    Returns:
        The map, on the CPU.

    Source:
        Exact strings and retokenised ones as in sparse vocabulary projection.
        Departures: a token counts for its first piece alone, which is what the other
        model would say next; and both sides are mapped, so that no outcome is out of
        either model's reach and no divergence infinite.
    """
    pieces = student.pieces, teacher.pieces
    known = [{piece for piece in side if piece} for side in pieces]
    both = {piece: n for n, piece in enumerate(sorted(known[0] & known[1]))}
    first = _first_piece(teacher), _first_piece(student)
    sides = []
    for side, size in enumerate((student_size, teacher_size)):
        out = torch.full((max(size, len(pieces[side])),), -1)
        for id_, piece in enumerate(pieces[side]):
            turn = side
            while piece and piece not in both:
                shorter = first[turn](piece)
                piece = shorter if shorter and len(shorter) < len(piece) else piece[:-1]
                turn = 1 - turn
            if piece:
                out[id_] = both[piece]
        sides.append(out)
    return CommonPieces(sides[0], sides[1], len(both))


def _first_piece(spelling: Spelling) -> Callable[[bytes], bytes | None]:
    """The first token of a tokenizer's model for some bytes, None where it has none.

    The model alone is asked, without the blank that some tokenizers put before a text.
    """
    backend, pieces = spelling.tokenizer.backend_tokenizer, spelling.pieces
    decoder = backend.decoder.__getstate__().decode()
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    known = {piece for piece in pieces if piece}

    def first(piece: bytes) -> bytes | None:
        try:
            if "ByteLevel" in decoder:
                text = "".join(letters[byte] for byte in piece)
            else:
                text = piece.decode().replace(" ", "▁")
        except UnicodeDecodeError:
            return None
        tokens = backend.model.tokenize(text)
        first_piece = pieces[tokens[0].id] if tokens else None
        return (
            first_piece
            if first_piece in known and piece.startswith(first_piece)
            else None
        )

    return first
