"""A process group of one process, which opens no socket.

DeepSpeed asks for a process group even where one process trains alone. PyTorch's own
(gloo, NCCL) listen on a network address as soon as they are made, whatever their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BACKEND = "alone"
"""Its name among PyTorch's backends."""


class _Done(dist.Work):
    """A collective that was over when it was asked for."""

    def __init__(self, results: Sequence[Tensor]) -> None:
        super().__init__()
        self._future: Any = torch.futures.Future()
        self._future.set_result(list(results))
        self._events = [_after(tensor) for tensor in results if tensor.is_cuda]

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        """Have the stream in use follow the one in which results were copied."""
        for event in self._events:
            torch.cuda.current_stream().wait_event(event)
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> Any:
        return self._future


def _after(tensor: Tensor) -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(tensor.device))
    return event


class AloneGroup(dist.ProcessGroup):
    """Every collective among one process: what goes in comes out.

    Sums, means, extremes and broadcasts leave tensors as they are; what has an output
    of its own is copied there. Sending and receiving are left to the base class, which
    refuses them.
    """

    def __init__(self, rank: int, size: int) -> None:
        """Take part.

        Raises:
            ValueError: there are others.
        """
        if (rank, size) != (0, 1):
            raise ValueError(f"{BACKEND} is for one process, not {rank} of {size}")
        super().__init__(rank, size)  # type: ignore[call-arg]

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]  # where pickled objects travel

    def name(self) -> str:
        """How PyTorch calls it."""
        return BACKEND

    def _in_place(self, tensors: Sequence[Tensor], *_: Any) -> _Done:
        return _Done(tensors)

    allreduce: Any = _in_place
    allreduce_coalesced: Any = _in_place
    broadcast: Any = _in_place
    reduce: Any = _in_place

    def barrier(self, *_: Any, **__: Any) -> _Done:
        """Nobody to wait for."""
        return _Done([])

    def _one_to_one(self, output: Tensor, given: Tensor, *_: Any) -> _Done:
        return self._all_to_all([output], [given])

    def _all_to_all(
        self, outputs: Sequence[Tensor], given: Sequence[Tensor], *_: Any
    ) -> _Done:
        for output, tensor in zip(outputs, given, strict=True):
            output.copy_(tensor.view_as(output))
        return _Done(outputs)

    # PyTorch calls them by the later names from 2.13 on.
    _allgather_base: Any = _one_to_one
    all_gather_single: Any = _one_to_one
    _reduce_scatter_base: Any = _one_to_one
    reduce_scatter_single: Any = _one_to_one
    alltoall_base: Any = _one_to_one
    all_to_all_single: Any = _one_to_one
    allgather_into_tensor_coalesced: Any = _all_to_all
    all_gather_single_coalesced: Any = _all_to_all
    reduce_scatter_tensor_coalesced: Any = _all_to_all
    reduce_scatter_single_coalesced: Any = _all_to_all
    alltoall: Any = _all_to_all

    def _lists_of_one(
        self, outputs: Sequence[Sequence[Tensor]], given: Sequence[Tensor], *_: Any
    ) -> _Done:
        return self._all_to_all([output for (output,) in outputs], given)

    allgather: Any = _lists_of_one
    gather: Any = _lists_of_one

    def allgather_coalesced(
        self, outputs: Sequence[Sequence[Tensor]], given: Sequence[Tensor], *_: Any
    ) -> _Done:
        """Copy several tensors, given in one list per process."""
        (of_this_process,) = outputs
        return self._all_to_all(of_this_process, given)

    def _from_lists_of_one(
        self, outputs: Sequence[Tensor], given: Sequence[Sequence[Tensor]], *_: Any
    ) -> _Done:
        return self._all_to_all(outputs, [tensor for (tensor,) in given])

    reduce_scatter: Any = _from_lists_of_one
    scatter: Any = _from_lists_of_one

    def _start_coalescing(self, device: torch.device) -> None:
        """Several collectives follow as one; each is done at once."""

    def _end_coalescing(self, device: torch.device) -> _Done:
        return _Done([])


def join_alone() -> None:
    """Be the one process of PyTorch's default process group."""
    if not hasattr(dist.Backend, BACKEND.upper()):
        dist.Backend.register_backend(BACKEND, _make, devices=["cpu", "cuda"])
    store: Any = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(BACKEND, store=store, rank=0, world_size=1)


def _make(_store: Any, rank: int, size: int, _timeout: timedelta) -> AloneGroup:
    return AloneGroup(rank, size)
