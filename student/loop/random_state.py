"""The state of every random generator of a process, as tensors."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor


def read_random_state() -> dict[str, Tensor]:
    """Python's, NumPy's, PyTorch's and each visible GPU's generator."""
    _, words, spare = random.getstate()
    kind, keys, position, has_spare, cached = np.random.get_state(legacy=True)
    assert kind == "MT19937"  # the only one behind numpy's global functions
    states = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_spare": torch.tensor([] if spare is None else [spare]).double(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_spare, cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    for index in range(torch.cuda.device_count()):
        states[f"cuda.{index}"] = torch.cuda.get_rng_state(index)
    return states


def set_random_state(states: dict[str, Tensor]) -> None:
    """Go on drawing from where :func:`read_random_state` was called."""
    spare = states["python_spare"].tolist()
    words = tuple(states["python"].tolist())
    random.setstate((3, words, spare[0] if spare else None))
    position, has_spare, cached = states["numpy_rest"].tolist()
    keys = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_spare), cached))
    torch.set_rng_state(states["torch"])
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{index}"], index)
