"""Products in the dtype of their factors, whatever autocast stands around."""

from __future__ import annotations

import torch
from torch import Tensor


def without_autocast(of: Tensor) -> torch.autocast:
    """A context in which products are as wide as what is multiplied.

    Under ``train.bf16`` a product of float32 is rounded to bfloat16, which a softmax, a
    logarithm or a difference of near numbers tells apart.

    Args:
        of: on the device where products are made.
    """
    return torch.autocast(of.device.type, enabled=False)
