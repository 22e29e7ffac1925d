"""Make a student out of a larger model."""

from teacher.making.base import Made, Sample, StudentMaker
from teacher.making.stack import with_layers

__all__ = ["Made", "Sample", "StudentMaker", "with_layers"]
