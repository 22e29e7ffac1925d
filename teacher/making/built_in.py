"""The built-in makers of students by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from teacher.making.base import StudentMaker
from teacher.making.layers import Layers
from teacher.making.low_rank import LowRank
from teacher.making.ratio import Ratio
from teacher.making.width import Width

MAKERS: Mapping[str, Callable[..., StudentMaker]] = {
    "layers": Layers,
    "width": Width,
    "ratio": Ratio,
    "low_rank": LowRank,
}
