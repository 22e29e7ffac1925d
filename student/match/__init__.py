"""Compare student and teachers at any place in the network, by any distance."""

from student.match.choices import DISTANCES
from student.match.distance import Distance
from student.match.projector import PROJECTORS, Projector
from student.match.term import Match

__all__ = ["DISTANCES", "PROJECTORS", "Distance", "Match", "Projector"]
