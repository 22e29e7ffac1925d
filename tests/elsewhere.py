"""A device that this machine has not, so that whoever has one does not find our slips.

Tensors on it say that they are on ``meta`` and hold their numbers on the CPU. What a
GPU refuses is refused here: an operation on a tensor from there and one of the CPU,
unless that is a single number or an index, and numpy. What a GPU does is done:
factories with ``device=``, copies to and fro, ``tolist`` and ``item``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")
_INDEXED = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
"""Take the CPU's indices, on a GPU too."""
_COPIES = {"_to_copy", "copy_", "_copy_from"}


class WrongDeviceError(AssertionError):
    """What a GPU would have refused."""


class There(torch.Tensor):
    """A tensor of that device, with its numbers here."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=ELSEWHERE,
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here!r})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "tolist" and isinstance(args[0], There):
            return args[0].here.tolist()
        if name in ("__getitem__", "__setitem__"):  # lists index from the CPU
            index = tree_map(_as_index, args[1], is_leaf=lambda x: type(x) is list)
            args = (args[0], index, *args[2:])
        if name == "new_tensor" and kwargs.get("device") is None:
            dtype = kwargs.get("dtype", args[0].dtype)
            return There(torch.tensor(args[1], dtype=dtype))
        if name in ("numpy", "__array__"):
            raise WrongDeviceError("numpy of a tensor that is on a device; take .cpu()")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return acted(func, args, kwargs or {})


def _as_index(x):
    return torch.tensor(x) if type(x) is list else x


def acted(func, args, kwargs):
    """Do an operation here, for tensors that may be there."""
    name = func._schema.name.partition("::")[2]
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    strangers = [x for x in tensors if not isinstance(x, There) and x.dim() > 0]
    if there and strangers and name not in _COPIES | _INDEXED:
        raise WrongDeviceError(
            f"{func}: {[tuple(x.shape) for x in there]} there, and of the CPU "
            f"{[(tuple(x.shape), x.dtype) for x in strangers]}"
        )
    asked = kwargs.get("device")
    goes = torch.device(asked) == ELSEWHERE if asked is not None else bool(there)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    unwrap = lambda x: x.here if isinstance(x, There) else x  # noqa: E731
    before = {id(unwrap(x)): x for x in tensors}
    out = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))

    def back(x):
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in before:  # done in place
            return before[id(x)]
        return There(x) if goes else x

    return tree_map(back, out)


class _Told(TorchFunctionMode):
    """Makes tensors of numbers there, which dispatch does not see."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and asked is not None:
            made = func(*args, **{**kwargs, "device": "cpu"})
            there = torch.device(asked) == ELSEWHERE and not isinstance(made, There)
            return There(made) if there else made
        return func(*args, **kwargs)


class _Made(TorchDispatchMode):
    """Has what is made or copied with ``device=`` be there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return acted(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """A block in which ``device="meta"`` is that device."""
    with pytest.MonkeyPatch.context() as patch, _Told(), _Made():
        for name in ("is_autocast_enabled", "get_autocast_dtype"):
            patch.setattr(torch, name, _of_cpu(getattr(torch, name)))
        patch.setattr(torch, "autocast", _Autocast)
        yield ELSEWHERE


def _of_cpu(ask: Any) -> Any:
    """What is asked of this device's automatic types is asked of the CPU's."""

    def asked(device_type: str = "cpu") -> Any:
        return ask("cpu" if device_type == ELSEWHERE.type else device_type)

    return asked


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *rest: Any, **named: Any) -> None:
        of = "cpu" if device_type == ELSEWHERE.type else device_type
        super().__init__(of, *rest, **named)
