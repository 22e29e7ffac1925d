"""Which tokens are learned from whom."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from student.select.built_in import (
        SELECTORS,
        ConfidentTeacher,
        ExcessLoss,
        Uncertain,
        UnsureStudent,
    )
    from student.select.candidates import Candidates, Selector, selector_needs
    from student.select.choice import ChosenSelector, chosen_selectors
    from student.select.selection import Selection
    from student.select.sketch import RunningSketch
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "SELECTORS",
    "Candidates",
    "ChosenSelector",
    "ConfidentTeacher",
    "ExcessLoss",
    "RunningSketch",
    "Selection",
    "Selector",
    "Uncertain",
    "UnsureStudent",
    "chosen_selectors",
    "selector_needs",
]
