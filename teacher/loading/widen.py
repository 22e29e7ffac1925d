"""Calculate in float32 what a processor has no products of 16 bits for."""

from __future__ import annotations

import torch
from torch import nn

from align.products.cpu import pays


def widen(model: nn.Module, device: torch.device) -> str:
    """Give a model on the CPU weights of float32, where narrower ones are slower.

    Its weights are those that were loaded, to the bit; what is calculated from them is
    rounded less often.

    Args:
        model: changed in place.
        device: where it is going to calculate; nothing is changed for another.

    Returns:
        The types of 16 bits that it had, as torch calls them; empty: nothing was
        changed.
    """
    if device.type != "cpu":
        return ""
    tensors = [*model.parameters(), *model.buffers()]
    kinds = {x.dtype for x in tensors if x.is_floating_point() and not pays(x.dtype)}
    if kinds:
        model.float()
    return " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
