"""In which order, and how often, the texts of a phase are read."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from student.curriculum.base import Curriculum, Draw, leaves_out
    from student.curriculum.built_in import CURRICULA
    from student.curriculum.scores import COLUMNS, DIFFICULTIES, Scores
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "COLUMNS",
    "CURRICULA",
    "DIFFICULTIES",
    "Curriculum",
    "Draw",
    "Scores",
    "leaves_out",
]
