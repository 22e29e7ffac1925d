"""Where teachers and student meet: one contract, three ways."""

from student.bridges.adapter import AdapterBridge
from student.bridges.base import Bridge, PairStats, TeacherShape
from student.bridges.latent import LatentBridge
from student.bridges.projector import ProjectorBridge

__all__ = [
    "AdapterBridge",
    "Bridge",
    "LatentBridge",
    "PairStats",
    "ProjectorBridge",
    "TeacherShape",
]
