"""What two vocabularies have to do with each other, and losses that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.views import Head, LinearHead
from student.output.across.likelihood import log1mexp
from student.output.across.pooling import pool_head, pool_logits
from student.output.across.vocabulary import (
    CommonPieces,
    Spelling,
    byte_vectors,
)
from student.output.divergence.divergence import divergence
from student.output.divergence.linear import BLOCK
from student.output.divergence.linear_blocks import linear_blocks
from student.output.divergence.row_divergence import Divergence

_LEAST_REST = 1e-6
"""Share of a piece that is left beside the stretch that begins with it, at least."""


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """What is known of every row of one model's head."""

    vectors: Tensor
    """(V, D) float16, by the spelling; 0 where a row stands for no text."""
    blank: Tensor
    """(V,) bool: whether the token begins with a blank."""

    @staticmethod
    def of(spelling: Spelling, size: int) -> Vocabulary:
        """Look at every token.

        Args:
            spelling: of the model's tokenizer.
            size: V, rows of the head, where they are more than ids.
        """
        pieces = [*spelling.pieces, *[None] * (size - len(spelling.pieces))]
        blank = [piece is not None and piece[:1].isspace() for piece in pieces]
        return Vocabulary(byte_vectors(pieces).half(), torch.tensor(blank))

    def to(self, device: torch.device) -> Vocabulary:
        """Move the tensors."""
        return Vocabulary(self.vectors.to(device), self.blank.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """The student's vocabulary beside one teacher's."""

    student: Vocabulary
    teacher: Vocabulary
    pieces: CommonPieces


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chains:
    """N stretches of text, each one token or several of either model."""

    student: Tensor
    """(N,) float, log probability of the student's tokens, with its gradient."""
    teacher: Tensor
    """(N,) float, of the teacher's."""
    student_piece: Tensor
    """(N,) int64, the piece that the student's first token counts for, -1 for none."""
    teacher_piece: Tensor
    """(N,) int64, likewise."""
    separate: Tensor
    """(N,) bool: whether the stretch is an outcome of its own; where each model says
    it by one token it is its piece's already."""


def projected_divergence(
    hidden: Tensor,
    head: LinearHead,
    teacher_hidden: Tensor,
    teacher_head: Head,
    pieces: CommonPieces,
    *,
    settings: Divergence | None = None,
    temperature: float | Tensor = 1.0,
    weight: Tensor,
    chains: Chains | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Distance between two vocabularies' next-token distributions, over pieces.

    Both distributions become one over the K byte strings that both vocabularies have:
    a token's probability counts for the piece it begins with. With ``chains`` the
    stretch of text that came is an outcome by itself: its probability is the product
    of its tokens' in either model, and is taken off the piece that it begins with.
    What neither model can say in pieces, special tokens, is left out and the rest
    renormalised.

    Args:
        hidden: (N, C_s) float, the student's at places where both models have read the
            same text.
        head: (V_s, C_s).
        teacher_hidden: (N, C_t) float, detached here.
        teacher_head: (V_t, C_t).
        pieces: :func:`student.output.common_pieces`, of the heads' sizes.
        settings: which distance, beside a teacher of named tokens over no more pieces
            than these; None: forward KL.
        temperature: > 0, one for all or (N,).
        weight: (N,) float >= 0.
        chains: what came next, at every place; None compares pieces alone.
        block: places whose logits are held at once, >= 1.

    Returns:
        A scalar, sum of weight x distance, nats, with gradients to ``hidden``, the head
        and ``chains.student``.

    Source:
        The chain rule of probability; a distance over outcomes that are told apart
        less is smaller, so this is at least that over pieces alone, and at least that
        between "this stretch" and "another" (:func:`student.output.chunk_likelihood`
        with a temperature of 1), up to the renormalisation.
    """
    settings = settings or Divergence()

    def one_block(logits: Tensor, student_chain: Tensor, rows: slice) -> Tensor:
        s = pool_logits(logits, pieces.student, pieces.size)
        t, total = pool_head(
            teacher_hidden[rows],
            teacher_head,
            pieces.teacher,
            pieces.size,
            dtype=logits.dtype,
            all_tokens=chains is not None,
        )
        if chains is not None:
            separate = chains.separate[rows]
            s = _with_chain(
                s,
                logits.logsumexp(-1),
                student_chain,
                chains.student_piece[rows],
                separate,
            )
            t = _with_chain(
                t,
                total,
                chains.teacher[rows],
                chains.teacher_piece[rows],
                separate,
            )
        share, row_temperature = weight[rows], temperature
        if isinstance(row_temperature, Tensor) and row_temperature.dim():
            row_temperature = row_temperature[rows]
        mean = divergence(s, t, settings, temperature=row_temperature, weight=share)
        return mean * share.sum()

    beside = None if chains is None else chains.student
    return linear_blocks(hidden, head, one_block, beside, block)


def chains_of(
    pieces: CommonPieces, student: Sequence[Tensor], teacher: Sequence[Tensor]
) -> Chains:
    """Prepare stretches of text for :func:`projected_divergence`.

    Args:
        pieces: of the two vocabularies.
        student: (N,) each: log probability, first token, number of tokens.
        teacher: (N,) each, likewise.
    """
    student_piece, teacher_piece = (
        pieces.student[student[1]],
        pieces.teacher[teacher[1]],
    )
    known = pieces.student[pieces.student >= 0]
    kinds = torch.bincount(known, minlength=pieces.size)
    several = (student[2] > 1) | (teacher[2] > 1)
    # a piece that is one token of the student's would have nothing left beside it
    divisible = (student[2] > 1) | (kinds[student_piece.clamp_min(0)] > 1)
    separate = several & divisible & (student_piece >= 0) & (teacher_piece >= 0)
    return Chains(
        student=student[0],
        teacher=teacher[0].detach(),
        student_piece=student_piece,
        teacher_piece=teacher_piece,
        separate=separate,
    )


def _with_chain(
    pooled: Tensor, total: Tensor, chain: Tensor, piece: Tensor, separate: Tensor
) -> Tensor:
    """(n, K) logits of pieces -> (n, K + 1) log probabilities, the stretch's last."""
    log_p = pooled - total[:, None].to(pooled.dtype)
    chain = chain.to(pooled.dtype)
    at = piece.clamp_min(0)[:, None]
    whole = log_p.gather(1, at)[:, 0]
    rest = whole + log1mexp((chain - whole).clamp_max(-_LEAST_REST))
    log_p = log_p.scatter(1, at, torch.where(separate, rest, whole)[:, None])
    last = torch.where(separate, chain, -torch.inf)  # left out of both sides
    return torch.cat([log_p, last[:, None]], 1)
