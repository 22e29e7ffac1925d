"""Whether a model can still be counted with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first of some tensors that holds NaN or an infinity.

    Args:
        named: such as a module's ``named_parameters()``; integers and float8, which
            has no minimum to ask for, are passed over.

    Returns:
        Its name; None where all are finite.
    """
    return next((name for name, tensor in named if not _is_finite(tensor)), None)


def _is_finite(tensor: Tensor) -> bool:
    tensor = tensor.detach()
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        return True
    # NaN shows in both ends
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())
