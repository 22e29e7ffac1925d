"""In which order, and how often, the texts of a phase are read."""

from student.curriculum.base import Curriculum, Draw, leaves_out
from student.curriculum.built_in import CURRICULA
from student.curriculum.scores import COLUMNS, DIFFICULTIES, Scores

__all__ = [
    "COLUMNS",
    "CURRICULA",
    "DIFFICULTIES",
    "Curriculum",
    "Draw",
    "Scores",
    "leaves_out",
]
