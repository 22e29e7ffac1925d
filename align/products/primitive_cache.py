"""Keep what a processor's matrix products remember of every shape from piling up.

On a CPU oneDNN makes a kernel for each shape of a bfloat16 product, and both oneDNN
and PyTorch's layer above it keep the last 1,024 of them with their buffers. Texts give
every batch other shapes, so a training process grew by a gigabyte in 160 steps.
"""

from __future__ import annotations

import os

CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""The variables that limit oneDNN's cache and PyTorch's. One alone is of no use: what
either still holds stays."""
KEPT = 128
"""More than the shapes of one training step."""


def bound_primitive_caches() -> None:
    """Limit both in this process and its children, unless a user has.

    Takes effect when called before the process's first bfloat16 product.
    """
    for name in CACHES:
        os.environ.setdefault(name, str(KEPT))
