"""The earlier name of :mod:`teacher.teacher_rule`."""

from teacher.teacher_rule import (
    Kind,
    TeacherFacts,
    TeacherRule,
    select_teachers,
    too_few,
)

__all__ = ["Kind", "TeacherFacts", "TeacherRule", "select_teachers", "too_few"]
