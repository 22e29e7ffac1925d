"""The transforms of a student that are built in."""

from __future__ import annotations

from collections.abc import Callable

from student.transforms.base import StudentTransform
from student.transforms.block_sparse import BlockSparse
from student.transforms.fake_quant import FakeQuant
from student.transforms.low_rank import LowRank
from student.transforms.stochastic_depth import StochasticDepth

TRANSFORMS: dict[str, Callable[..., StudentTransform]] = {
    "block_sparse": BlockSparse,
    "fake_quant": FakeQuant,
    "low_rank": LowRank,
    "stochastic_depth": StochasticDepth,
}
"""By the name in ``student.transform``."""
