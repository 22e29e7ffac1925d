"""Which of the student's layers a term compares, and how much each counts."""

from student.match.layers.choice import (
    LayerChoice,
    Layers,
    LayerWeights,
    layer_shares,
)
from student.match.layers.gradient import GradientLengths
from student.match.layers.probe import told_best

__all__ = [
    "GradientLengths",
    "LayerChoice",
    "LayerWeights",
    "Layers",
    "layer_shares",
    "told_best",
]
