"""Teachers whose weights lie on all processes together, a part on each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from align.errors import InputError

MARK = "_mtkd_shards"


def shard(model: Any, device: torch.device) -> int:
    """Split the weights of a model's blocks over the processes of this launch.

    A block's weights come together when it runs and part again after it; embeddings,
    last norm and head stay whole on each. Nothing else changes, so keys and values are
    those of the whole model bit for bit.

    From then on a forward is something that all processes do together: each of them has
    to run the model as often as the others, on texts of any length.

    Args:
        model: frozen, of transformers, on the CPU; in place.
        device: where its weights go, a block at a time.

    Returns:
        The processes that share it; 1 where there is no other, and nothing is done.

    Raises:
        ValueError: the model does not say what its blocks are, or is not frozen.

    Source:
        ZeRO stage 3 for inference, Rajbhandari et al. 2020 (arXiv 1910.02054), by
        PyTorch's ``fully_shard``.
    """
    processes = _processes()
    if processes == 1:
        return 1
    units = blocks(model)
    if not units:
        raise InputError(
            f"{type(model).__name__} does not say which blocks it has "
            "(_no_split_modules), so it cannot be split over processes; set shard=false"
        )
    if any(p.requires_grad for p in model.parameters()):
        raise InputError(f"{type(model).__name__} is not frozen; only teachers split")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    for block in units:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    setattr(model, MARK, processes)
    return processes


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward of this model takes all processes."""
    return hasattr(model, MARK)


def blocks(model: Any) -> list[nn.Module]:
    """The outermost modules that the model wants whole on one device."""
    names = set(model._no_split_modules or ())
    units: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if type(module).__name__ in names and id(module) not in inside:
            units.append(module)
            inside.update(id(child) for child in module.modules())
    return units


def _processes() -> int:
    group = torch.distributed
    on = group.is_available() and group.is_initialized()
    return group.get_world_size() if on else 1
