"""A block whose tensors all begin on the device of :mod:`tests.elsewhere`.

What checks ask about and what a module keeps is made there, as below ``with
torch.device(...)``. Whatever else our packages make has to say where: it is refused
where it says nothing. Beside it stands which of our classes have calculated there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import elsewhere
from tests.elsewhere import ELSEWHERE, There, WrongDeviceError, acted

ROOT = Path(__file__).parents[1]
_OURS = tuple(
    f"{ROOT / package}/"
    for package in ("align", "teacher", "fuse", "student", "plugins", "experiments")
)
_ASKS = f"{ROOT / 'plugins'}/"
"""Checks, which make what they ask about."""
ON_THE_CPU = {
    "student/select/candidates.py:domain_of_text": "which texts, as it promises",
    "student/select/sketch.py:_numbers": "what was counted is read there",
    "student/select/sketch.py:note": "numbers of all processes, moved at once",
    "student/balance/waiting.py:_add": "numbers of all processes, moved at once",
    "align/schedules/losses.py:note": "numbers of all processes, moved at once",
    "align/position_mean.py:fit": "sums of a sample, moved at once",
    "align/position_mean.py:update": "sums of a sample are kept there",
    "student/match/heads.py:_matched": "SciPy's answer, moved at once",
    "student/output/across/chunks.py:_spell": "which texts are talks, moved at once",
    "student/own/perturbed.py:noisy": "drawn alike on every device, moved at once",
    "student/own/supervision.py:_shares": "a number a layer, moved at once",
}
"""What makes tensors on the CPU for others of the CPU."""
_FROM_NUMBERS = (torch.tensor, torch.as_tensor)


@dataclass(slots=True)
class Seen:
    """What calculated there."""

    classes: set[str] = field(default_factory=set)
    """Of ours, as ``file.py:Class``."""


@contextmanager
def all_there() -> Iterator[Seen]:
    """A block in which a check makes everything there."""
    seen = Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elsewhere, "_Told", _Told)
        patch.setattr(elsewhere, "_Made", lambda: _Made(seen))
        with elsewhere.elsewhere():
            yield seen


class _Told(TorchFunctionMode):
    """Tensors of numbers, which dispatch does not see."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in _FROM_NUMBERS or isinstance(args[0], torch.Tensor):
            return func(*args, **kwargs)
        asked = kwargs.get("device")
        made = func(*args, **{**kwargs, "device": "cpu"})
        if asked is None:
            return There(made) if made.dim() and _begins_there(func.__name__) else made
        return There(made) if torch.device(asked) == ELSEWHERE else made


class _Made(TorchDispatchMode):
    """Tensors that are made of nothing, and who calculates with those there."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(x, There) for x in leaves):
            self._note()
        elif not any(isinstance(x, torch.Tensor) for x in leaves):
            unsaid = kwargs.get("device") in (None, torch.device("cpu"))
            placed = any(a.name == "device" for a in func._schema.arguments)
            placed = placed and func is not torch.ops.aten.scalar_tensor.default
            if placed and unsaid and _begins_there(str(func)):
                kwargs = {**kwargs, "device": ELSEWHERE}
        return acted(func, args, kwargs)

    def _note(self) -> None:
        for frame in _our_frames():
            code = frame.f_code
            owner, _, method = code.co_qualname.rpartition(".")
            if method and owner and "<" not in owner:
                path = code.co_filename.removeprefix(f"{ROOT}/")
                self._seen.classes.add(f"{path}:{owner}")


def _our_frames() -> Iterator[FrameType]:
    """From the innermost."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_OURS):
            yield frame
        frame = frame.f_back


def _begins_there(what: str) -> bool:
    """Whether who makes it, saying nothing, is a check or builds a module.

    Raises:
        WrongDeviceError: it is a calculation, whose other tensors may be elsewhere.
    """
    frames = list(_our_frames())
    if not frames or frames[0].f_code.co_filename.startswith(_ASKS):
        return True
    if any(frame.f_code.co_name == "__init__" for frame in frames):
        return True
    code, line = frames[0].f_code, frames[0].f_lineno
    path = code.co_filename.removeprefix(f"{ROOT}/")
    if f"{path}:{code.co_name}" in ON_THE_CPU:
        return False
    raise WrongDeviceError(
        f"{path}:{line} {code.co_name}: {what} says nothing of a device; give it the "
        "one of the tensors that it meets"
    )
