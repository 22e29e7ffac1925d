"""Which of the student's layers a term compares, and how much each counts."""

from student.match.layers.choice import (
    Layers,
    LayerWeights,
    by_gradient,
    by_probe,
    check_layers,
    chosen_layers,
    layer_shares,
    varies,
)
from student.match.layers.gradient import GradientLengths
from student.match.layers.probe import told_best

__all__ = [
    "GradientLengths",
    "LayerWeights",
    "Layers",
    "by_gradient",
    "by_probe",
    "check_layers",
    "chosen_layers",
    "layer_shares",
    "told_best",
    "varies",
]
