"""In which order, and how often, the texts of a phase are read."""

from student.curriculum.scores import COLUMNS, DIFFICULTIES, Scores

__all__ = ["COLUMNS", "DIFFICULTIES", "Scores"]
