"""What a process and its machine are at, for trackers beside the losses."""

from __future__ import annotations

import psutil
import torch

_MIB = 2**20


def system_numbers() -> dict[str, float]:
    """Use of processor, memory and accelerator, of now.

    Returns:
        ``cpu_percent`` of the machine since the last call, ``memory_percent`` of it,
        ``process_memory_mib``; with a GPU ``gpu_memory_mib`` that tensors take,
        ``gpu_memory_peak_mib`` that they took, ``gpu_reserved_mib`` of the allocator.
    """
    numbers = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
        "process_memory_mib": psutil.Process().memory_info().rss / _MIB,
    }
    if torch.cuda.is_available():
        numbers["gpu_memory_mib"] = torch.cuda.memory_allocated() / _MIB
        numbers["gpu_memory_peak_mib"] = torch.cuda.max_memory_allocated() / _MIB
        numbers["gpu_reserved_mib"] = torch.cuda.memory_reserved() / _MIB
    return numbers
