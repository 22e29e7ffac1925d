"""How questions and answers travel between processes: JSON, and tensors as they lie.

Nothing is pickled. A message is one block of bytes: a length, a head of JSON, and each
tensor's numbers where they begin at a multiple of 64. Tensors keep their strides, since
products of other strides may differ in the last bit.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor

from align.errors import MachineError

_PLACE = re.compile(r"^\[\S+:\d+\] ")
"""In gloo's source, before what it says."""
_LATE = re.compile(r"Timed out waiting (\d+)ms")
"""How gloo says that the other end let it wait for too long."""
_ALIGN = 64
"""Bytes at whose multiples tensors begin, as those that PyTorch makes."""


class Group(Protocol):
    """Of :class:`torch.distributed.ProcessGroup` what is needed."""

    def send(self, tensors: list[Tensor], to: int, tag: int) -> Any:
        """Begin to send."""

    def recv(self, tensors: list[Tensor], of: int, tag: int) -> Any:
        """Begin to receive."""


@dataclass(frozen=True, slots=True)
class Message:
    """What travels at once."""

    head: Mapping[str, Any]
    """Of what JSON holds."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """On the CPU where they were received."""


class LineGoneError(MachineError):
    """The process at the other end is gone, or has not answered for too long."""


LEAVE = "leave"
"""The question of a process that asks nothing more."""
HERE = "here"
"""Of one that only says that it is there; there is no answer."""


@dataclass(eq=False)
class Line:
    """One end of a connection between two processes of a group."""

    group: Group
    other: int
    """The number of the process at the other end, in the group."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held from a question to its answer."""
    in_step: bool = True
    """Whether the other end waits for a question; not any more where one was
    interrupted, by a second Ctrl-C, where it is gone, or was left."""

    def ask(self, message: Message) -> Message:
        """Send a question and wait for its answer; one at a time.

        Raises:
            LineGoneError: nobody is there any more.
        """
        packed = pack(message)
        with self.turn:
            self.in_step = False
            self.send(packed)
            answer = self.receive()
            self.in_step = True
            return answer

    def leave(self) -> None:
        """Ask nothing more; waits for what another thread has asked.

        Where an answer was not waited for, nothing is said, which the other end would
        take for a part of something else: it sees this process end.

        Raises:
            LineGoneError: nobody is there any more.
        """
        with self.turn:
            if self.in_step:
                self.in_step = False
                self.send(pack(Message({"what": LEAVE})))

    def greet(self) -> None:
        """Say that this end is there, unless it is just asking something.

        Raises:
            LineGoneError: nobody is there any more.
        """
        if not self.turn.acquire(blocking=False):
            return
        try:
            if self.in_step:
                self.in_step = False
                self.send(pack(Message({"what": HERE})))
                self.in_step = True
        finally:
            self.turn.release()

    def send(self, packed: Tensor) -> None:
        """Send, and wait until the other end has taken it.

        Args:
            packed: from :func:`pack`.

        Raises:
            LineGoneError: nobody is there any more.
        """
        self._wait(self.group.send, torch.tensor([len(packed)]))
        self._wait(self.group.send, packed)

    def receive(self) -> Message:
        """Wait for what the other end sends.

        Raises:
            LineGoneError: nobody is there any more.
        """
        length = torch.zeros(1, dtype=torch.int64)
        self._wait(self.group.recv, length)
        packed = torch.empty(int(length), dtype=torch.uint8)
        self._wait(self.group.recv, packed)
        return unpack(packed)

    def _wait(self, begin: Any, tensor: Tensor) -> None:
        try:
            begin([tensor], self.other, 0).wait()
        except RuntimeError as error:  # gloo has no type of its own
            said, _, _ = str(error).splitlines()[0].partition(". This is typically")
            said = _PLACE.sub("", said)
            if late := _LATE.search(said):
                waited = timedelta(milliseconds=int(late[1]))
                said = f"nothing was heard of it for {waited} (hours:minutes:seconds)"
            raise LineGoneError(said) from error


def pack(message: Message) -> Tensor:
    """A message as bytes, (N,) uint8 on the CPU.

    Args:
        message: with tensors of any device, type, shape and strides; those whose
            numbers overlap or leave gaps are sent without.
    """
    entries, flat = [], []
    at = 0
    for name, tensor in message.tensors.items():
        tensor = tensor.detach().cpu()
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        if not tensor.permute(order).is_contiguous():
            tensor, order = tensor.contiguous(), list(range(tensor.dim()))
        laid = tensor.permute(order)
        entries.append([name, str(tensor.dtype), list(laid.shape), order, at])
        flat.append((at, laid.reshape(-1).view(torch.uint8)))
        at += _rounded(tensor.nbytes)
    head = json.dumps([dict(message.head), entries]).encode()
    begins = _rounded(8 + len(head))
    packed = torch.zeros(begins + at, dtype=torch.uint8)
    packed[:8].view(torch.int64).fill_(len(head))
    packed[8 : 8 + len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
    for start, numbers in flat:
        packed[begins + start : begins + start + len(numbers)] = numbers
    return packed


def unpack(packed: Tensor) -> Message:
    """What :func:`pack` made bytes of; tensors are parts of these bytes."""
    length = int(packed[:8].view(torch.int64))
    head, entries = json.loads(packed[8 : 8 + length].numpy().tobytes())
    begins, tensors = _rounded(8 + length), {}
    for name, dtype, shape, order, at in entries:
        kind: torch.dtype = getattr(torch, dtype.removeprefix("torch."))
        size = torch.Size(shape).numel() * kind.itemsize
        numbers = packed[begins + at : begins + at + size].view(kind)
        back = [order.index(axis) for axis in range(len(order))]
        tensors[name] = numbers.view(shape).permute(back)
    return Message(head, tensors)


def _rounded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
