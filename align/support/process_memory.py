"""How much memory this process holds, and has held at most.

Not by ``getrusage`` where Linux keeps a better account: what that gives begins with the
peak of the process which started this one.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")
_FORGET = Path("/proc/self/clear_refs")


def resident() -> int:
    """Bytes of this process now; from here on :func:`highest` counts anew."""
    if not _STATUS.is_file():
        return highest()
    try:
        _FORGET.write_text("5")
    except OSError:  # a sandbox may forbid it
        return highest()
    return _status("VmRSS")


def highest() -> int:
    """Most bytes that this process has held since :func:`resident`."""
    if _STATUS.is_file():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak(device: torch.device) -> int:
    """Most bytes that were held: on a GPU by tensors, else by this process."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return highest()


def give_back() -> None:
    """Return to the system what was freed and the allocator keeps for later.

    glibc keeps the room of many middling tensors as long as one above it lives; other
    allocators have no such call, and nothing is done there.

    Source:
        malloc_trim(3).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    rows = _STATUS.read_text().splitlines()
    return next(int(r.split()[1]) * 1024 for r in rows if r.startswith(field + ":"))
