"""Which tokens of prompted texts are the answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.text.prompted import Prompted


def answered(
    texts: Sequence[str], spans: Tensor, has_text: Tensor, tokens: Tensor
) -> Tensor:
    """Leave out tokens of prompts.

    Args:
        texts: B texts.
        spans: (B, T, 2) int64 [start, end) in characters.
        has_text: (B, T) bool, True on tokens that hold at least one character.
        tokens: (B, T) bool, what they are left out of.

    Returns:
        (B, T) bool; of a :class:`~align.text.prompted.Prompted` ``tokens`` from the
        first on that holds some of its completion, of other texts all of ``tokens``:
        itself, where no text has a prompt.
    """
    if not any(isinstance(text, Prompted) for text in texts) or not spans.shape[1]:
        return tokens
    ends = [text.answer if isinstance(text, Prompted) else -1 for text in texts]
    prompt = torch.tensor(ends, device=spans.device)[:, None]
    end = torch.where(has_text, spans[..., 1], 0)
    return tokens & (end > prompt).cummax(1).values
