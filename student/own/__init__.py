"""Terms of the loss that ask no teacher, beside the next token's."""

from student.own.activations import Activations
from student.own.perturbed import Mixup, Smoothness
from student.own.supervision import DeepSupervision

OWN = {
    "activations": Activations,
    "deep_supervision": DeepSupervision,
    "mixup": Mixup,
    "smoothness": Smoothness,
}
"""By name."""

__all__ = ["OWN", "Activations", "DeepSupervision", "Mixup", "Smoothness"]
