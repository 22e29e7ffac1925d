"""The transforms of a student that are built in."""

from __future__ import annotations

from collections.abc import Callable

from student.transforms.base import StudentTransform
from student.transforms.fake_quant import FakeQuant

TRANSFORMS: dict[str, Callable[..., StudentTransform]] = {"fake_quant": FakeQuant}
"""By the name in ``student.transform``."""
