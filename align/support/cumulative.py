"""Running totals of long arrays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def cumulative(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn (..., n) int64 values into their running total over n, in place.

    Torch's kernel takes a tenth of the time of ``numpy.cumsum``, which on all
    characters of a batch was a large part of what its alignment cost.
    """
    torch.from_numpy(values).cumsum_(-1)
    return values
