"""What a student computes by, in place of its own weights, while it trains."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from student.transforms.attached import (
        Moved,
        Transforms,
        is_transformed,
        put_transformed,
        put_untransformed,
    )
    from student.transforms.base import StudentTransform, WeightTransform
    from student.transforms.block_sparse import BlockSparse
    from student.transforms.built_in import TRANSFORMS
    from student.transforms.choice import ChosenTransform, chosen_transforms
    from student.transforms.fake_quant import FakeQuant
    from student.transforms.low_rank import LowRank
    from student.transforms.stochastic_depth import StochasticDepth
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "TRANSFORMS",
    "BlockSparse",
    "ChosenTransform",
    "FakeQuant",
    "LowRank",
    "Moved",
    "StochasticDepth",
    "StudentTransform",
    "Transforms",
    "WeightTransform",
    "chosen_transforms",
    "is_transformed",
    "put_transformed",
    "put_untransformed",
]
