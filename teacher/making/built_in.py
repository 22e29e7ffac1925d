"""The built-in makers of students by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from teacher.making.base import StudentMaker
from teacher.making.layers import Layers

MAKERS: Mapping[str, Callable[..., StudentMaker]] = {"layers": Layers}
