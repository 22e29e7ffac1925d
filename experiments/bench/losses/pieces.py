"""A teacher of 262,144 tokens, of which a store kept the likeliest, over common pieces.

What its store's rows come to over the pieces, against laying them out over the whole
vocabulary and adding that up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from align.tokens.named_head import NamedHead
from experiments.bench.losses.memory import extra_bytes
from experiments.bench.measure import Bar, paired_ratio, seconds
from student.output import pool_head, pool_logits

VOCABULARY, PIECES, KEPT = 262_144, 4_096, 64
"""Gemma's vocabulary, a small student's, and what ``store.top_k`` keeps."""
PLACES = 1_024
"""Eight texts of 128 tokens."""


def bars(rounds: int = 7) -> list[Bar]:
    """Time and memory of what a teacher says over pieces.

    Args:
        rounds: pairs of each ratio.
    """
    few, all_of_them = named(), laid_out()
    torch.testing.assert_close(few(), all_of_them(), atol=1e-4, rtol=1e-4)
    ratio = paired_ratio(few, all_of_them, rounds)
    times = ", ".join(f"{1e3 * seconds(call):.0f} ms" for call in (few, all_of_them))
    print(f"what was kept over pieces, and laid out, once each: {times}")
    memory = extra_bytes(named) / extra_bytes(laid_out)
    return [
        Bar("kept tokens over pieces / laid out over the vocabulary", ratio, 0.1),
        Bar("its extra memory / that of laying out", memory, 0.1),
    ]


def named() -> Callable[[], Tensor]:
    """As a step does it."""
    rows, head, piece = _kept()
    return lambda: pool_head(rows, head, piece, PIECES, dtype=torch.float32)[0]


def laid_out() -> Callable[[], Tensor]:
    """The baseline: one logit for each token of the vocabulary."""
    rows, head, piece = _kept()
    return lambda: pool_logits(head.logits(rows), piece, PIECES)


def _kept() -> tuple[Tensor, NamedHead, Tensor]:
    draw = torch.Generator().manual_seed(0)
    piece = torch.randint(-1, PIECES, (VOCABULARY,), generator=draw)
    step = VOCABULARY // (KEPT + 1)  # ids that are all different
    first = torch.randint(step, (PLACES, KEPT + 1), generator=draw)
    ids = first + step * torch.arange(KEPT + 1)
    said = torch.randn(PLACES, KEPT + 1, generator=draw) - 6
    rest = torch.full((PLACES, 1), -2.0)
    return torch.cat([ids, said, rest], 1), NamedHead(VOCABULARY, KEPT), piece
