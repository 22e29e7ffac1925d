"""Next-token logits of a vocabulary, added up over the pieces its tokens begin with."""

from __future__ import annotations

import torch
from torch import Tensor

from align.tokens.named_head import NamedHead
from align.views import Head
from student.output.divergence.linear import LOGITS, blocks, logits_of, narrowed


def pool_logits(logits: Tensor, piece: Tensor, size: int) -> Tensor:
    """Add up the probability of all tokens that begin with the same piece.

    Args:
        logits: (N, V) float.
        piece: (V,) int64 in [-1, K); tokens of -1 are left out.
        size: K.

    Returns:
        (N, K) at least float32, the logsumexp of each piece's tokens: logits over the
        pieces, for any divergence between models of unlike vocabularies. A softmax of
        them leaves the mass of tokens without a piece out.

    Raises:
        ValueError: the shapes do not match.
    """
    if logits.dim() != 2 or piece.shape != logits.shape[1:]:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and piece {tuple(piece.shape)}; "
            "give (N, V) and (V,), see student_size of common_pieces"
        )
    wide = torch.promote_types(logits.dtype, torch.float32)
    kept = (piece >= 0).nonzero()[:, 0]
    index = piece[kept]
    # tokens first: rows that lie together are added up several times as fast; and in
    # place: a fresh (V, N) for every step of it takes as long as the step
    x = logits.T[kept].to(wide)
    least = torch.finfo(wide).min
    top = x.new_full((size, len(logits)), least)
    places = index[:, None].expand_as(x)
    top = top.scatter_reduce_(0, places, x.detach(), "amax").clamp_min_(least)
    share = x.sub_(top[index]).exp_()
    pooled = torch.zeros_like(top).index_add_(0, index, share).log_().add_(top)
    return pooled.T.contiguous()


@torch.no_grad()
def pool_head(
    hidden: Tensor,
    head: Head,
    piece: Tensor,
    size: int,
    *,
    dtype: torch.dtype,
    all_tokens: bool = False,
) -> tuple[Tensor, Tensor]:
    """Pool what a head says, and hold few of its logits, or none.

    Those of 1,024 places are a gigabyte where a vocabulary has 262,144 tokens. A matrix
    is asked for ``LOGITS`` of them at once. Where likeliest tokens alone were kept, all
    others are as likely as each other, and how many of a piece's tokens are named says
    what the piece has.

    Args:
        hidden: (N, C) float, what the head reads.
        head: of V tokens.
        piece: (V,) int64 in [-1, K), as for :func:`pool_logits`.
        size: K.
        dtype: of the numbers given back, at least float32.
        all_tokens: whether the second tensor is asked for; of a matrix it takes time.

    Returns:
        (N, K) logits of the pieces; and (N,) the logsumexp over all tokens, also those
        without a piece, or NaN where nobody asks. No gradients.

    Raises:
        ValueError: ``piece`` is of another vocabulary than the head.
    """
    if piece.shape != (head.size,):
        raise ValueError(
            f"piece has shape {tuple(piece.shape)} beside a head of {head.size} tokens"
            "; give one number a token, see teacher_size of common_pieces"
        )
    if isinstance(head, NamedHead):
        return head.pool(hidden.to(dtype), piece, size)
    pooled = hidden.new_empty((len(hidden), size), dtype=dtype)
    total = hidden.new_full((len(hidden),), torch.nan, dtype=dtype)
    for rows in blocks(len(hidden), max(1, LOGITS // head.size)):
        logits = logits_of(narrowed(hidden[rows], head), head, dtype)
        pooled[rows] = pool_logits(logits, piece, size)
        if all_tokens:
            total[rows] = logits.logsumexp(-1)
    return pooled, total
