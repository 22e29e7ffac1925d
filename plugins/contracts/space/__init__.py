"""Contract of spaces: unlike teachers, calibrated, met and injected many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from plugins.contracts.space import compared, conduct, injected
from plugins.contracts.space.injected import future_problem
from plugins.contracts.space.subject import Subject
from plugins.hookspecs import Space
from plugins.promise import Promise

__all__ = ["future_problem", "space"]

_PROMISES: tuple[tuple[str, Callable[[Subject], str]], ...] = (
    ("takes sizes and an adapter's calibration and is a Bridge", conduct.kind),
    ("is calibrated by statistics, and reports a number a layer", conduct.calibrates),
    ("compares like with like, with detached targets and weights", compared.pairs),
    ("meets one teacher alone, and any two", compared.some),
    ("pulls the student's keys and values", compared.student_moves),
    ("no target learns from the distance", compared.targets_stand),
    ("no target follows the student", compared.student_is_no_target),
    ("a teacher without weight counts for nothing", compared.left_out),
    ("what no teacher covers stays out", compared.uncovered),
    ("injects keys and values of the student's sizes", injected.injects),
    ("injects no bidirectional teacher", injected.one_way),
    ("injects no future", injected.no_future),
    ("whatever learns in it gets a gradient", conduct.learns),
    ("its own losses leave the student alone", conduct.own_losses),
    ("its own losses are a share of the step's", conduct.counted),
    ("meets each text by itself", conduct.itself),
    ("no batch changes the answers to later ones", conduct.history),
    ("is restored bit for bit by its state dict", conduct.restored),
    ("leaves its input as it was", conduct.untouched),
    ("is finite for large, empty and narrow keys", conduct.extremes),
    ("keeps all this call after call", conduct.often),
)


def space(factory: Space) -> Iterator[Promise]:
    """A space is tried as training uses it: calibrated on statistics, compared with a
    student, injected into it; with teachers that cover a part, that are bidirectional,
    that are alone; on short, long and uncovered texts."""
    for sentence, problem in _PROMISES:
        yield Promise(sentence, partial(problem, Subject(factory)))
