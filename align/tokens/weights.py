"""What each token counts in a loss, by its text's weight."""

from __future__ import annotations

from torch import Tensor

from align.tokens.batch import TokenBatch


def text_weight(batch: TokenBatch, places: Tensor) -> Tensor:
    """Numbers of places of texts, each text's times its weight.

    Args:
        batch: B texts.
        places: (B, ...) bool or float32.

    Returns:
        The same shape, float32.
    """
    if batch.weight is None:
        return places.float()
    return places * batch.weight.view(-1, *[1] * (places.dim() - 1))


def label_weight(batch: TokenBatch) -> Tensor:
    """(B, T) float32: what each token counts in a next-token loss.

    A text of the student's own counts nothing there: at temperature 1 the gradient of
    its log-likelihood is 0 in expectation, and below it sharpens what is sharp already.
    """
    weight = text_weight(batch, batch.predicted)
    return weight if batch.own is None else weight * ~batch.own[:, None]
