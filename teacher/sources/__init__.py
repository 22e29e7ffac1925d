"""Where teachers come from: what the prefix of a teacher's model stands for."""

from teacher.sources.base import (
    EVERYTHING,
    Opening,
    PhaseStart,
    TeacherSource,
)

__all__ = ["EVERYTHING", "Opening", "PhaseStart", "TeacherSource"]
