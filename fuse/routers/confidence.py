"""A router that asks whoever is surest of what comes."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from align.errors import InputError
from align.support.field_types import Positive, checked
from fuse.routers.scores import before, score_weights
from fuse.signals import ENTROPY, LOG_PROB, MAX_PROB, Signals

Confidence = Literal["entropy", "max_probability", "cross_entropy"]
"""What tells how sure a teacher is."""
_SIGNALS = {
    "entropy": ENTROPY,
    "max_probability": MAX_PROB,
    "cross_entropy": LOG_PROB,
}


class ConfidenceRouter(nn.Module):
    """Softmax of how sure each teacher is: minus its entropy, the log of its greatest
    probability, or the log-probability that it gives to what came.

    Source:
        Weights from cross-entropy with the labels: Zhang et al. 2022, CA-MKD (arXiv
        2201.00007), which takes 1 - softmax(loss) where this takes softmax(-loss);
        entropy and greatest probability need no label.
    """

    learns = False
    needs = frozenset({ENTROPY})
    causal = False
    """``cross_entropy`` looks ahead; a token is weighed by what was said of it."""

    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        *,
        by: Confidence = "entropy",
        per_character: bool = False,
        temperature: Positive = 1.0,
    ) -> None:
        """Choose what is compared.

        Args:
            hidden_dim: C, which plays no part.
            num_teachers: M.
            by: ``entropy``, ``max_probability`` or ``cross_entropy``.
            per_character: divide what ``cross_entropy`` says of a token by its
                characters, as ``output.weighting`` does across vocabularies.
            temperature: > 0; lower is sharper.
        """
        super().__init__()
        self.needs = self.needs_with(by=by, per_character=per_character)
        self.by, self.per_character = by, per_character
        self.temperature = checked(Positive, temperature, "temperature")

    @staticmethod
    def needs_with(
        by: str = "entropy", per_character: bool = False, temperature: float = 1.0
    ) -> frozenset[str]:
        """What it needs with these options.

        Raises:
            InputError: nothing is told by that name, or of no character.
        """
        if by not in _SIGNALS:
            raise InputError(
                f"router 'confidence' goes by {by!r}; choose from "
                f"{', '.join(get_args(Confidence))}"
            )
        if per_character and by != "cross_entropy":
            raise InputError(
                f"router 'confidence' goes by {by}, of which a token has no part a "
                "character; set by: cross_entropy, or leave per_character out"
            )
        return frozenset({_SIGNALS[by]})

    def forward(self, query: Tensor, signals: Signals) -> Tensor:
        """(B, T, C) float -> (B, T, M) float32, by the place before each token."""
        said = getattr(signals, _SIGNALS[self.by])
        if self.by == "entropy":
            said = -said
        elif self.by == "max_probability":
            said = said.log()
        scores = before(said)
        if self.per_character:
            assert signals.widths is not None
            scores = scores / signals.widths[..., None]
        return score_weights(scores, self.temperature)
