"""Which tokens of prompted texts are the answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.text.prompted import Prompted


def answered(texts: Sequence[str], spans: Tensor, has_text: Tensor) -> Tensor:
    """Tell tokens of prompts from all others.

    Args:
        texts: B texts.
        spans: (B, T, 2) int64 [start, end) in characters.
        has_text: (B, T) bool, True on tokens that hold at least one character.

    Returns:
        (B, T) bool; of a :class:`~align.text.prompted.Prompted` True from the first
        token on that holds some of its completion, of other texts True everywhere.
    """
    if not any(isinstance(text, Prompted) for text in texts) or not spans.shape[1]:
        return torch.ones_like(has_text)
    ends = [text.answer if isinstance(text, Prompted) else -1 for text in texts]
    prompt = torch.tensor(ends, device=spans.device)[:, None]
    end = torch.where(has_text, spans[..., 1], 0)
    return (end > prompt).cummax(1).values
