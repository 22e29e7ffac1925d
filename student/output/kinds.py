"""What a config can choose of the maths of outputs; read without torch."""

from __future__ import annotations

from typing import Literal

DivergenceKind = Literal[
    "forward", "reverse", "jensen_shannon", "skew_forward", "skew_reverse"
]
LikelihoodForm = Literal["binary", "squared", "absolute"]
SequenceCost = Literal["cosine", "squared", "softmax"]
