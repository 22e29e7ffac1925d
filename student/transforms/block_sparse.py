"""Blocks of weights that are zero while the student trains: pruning."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.support.field_types import AtLeastOne, ShareBelowOne
from student.transforms.base import Targets, WeightTransform

BLOCKS = {"neon": (1, 4), "avx512": (1, 16)}
"""Outputs x inputs of a block: the float32 numbers of one register of 128 and of 512
bits, side by side in a row."""
TENSOR_CORES = "tensor_cores"
"""2:4, which NVIDIA's sparse tensor cores read: of four inputs side by side two."""
_GROUP = 4
_SIZES = re.compile(r"([1-9][0-9]*)x([1-9][0-9]*)")


class BlockSparse(WeightTransform):
    """The least important blocks of each matrix are zero.

    Of a matrix of n blocks ``round(strength * sparsity * n)`` are zero: strength is how
    far pruning has come, and weights are never between themselves and zero.

    Source:
        Importance ``|W_b| |dL/dW_b|`` by Frobenius norms, of a single weight the
        first-order change of the loss without it (Molchanov et al. 2019, arXiv
        1906.10771); of backward passes the mean, and over steps a running one. The
        gradient is taken at the pruned weights and goes straight through to all, so
        that what was pruned learns on and may come back (Lin et al. 2020, arXiv
        2006.07253). Until there was a gradient the norm of the weights alone decides:
        ``torch.nn.utils.prune.l1_unstructured`` for blocks of 1 x 1 and
        ``ln_structured`` of dimension 0 for blocks that are rows.
    """

    keeps_zeros = True

    def __init__(
        self,
        *,
        block: str = "avx512",
        sparsity: ShareBelowOne = 0.5,
        every: AtLeastOne = 10,
        memory: ShareBelowOne = 0.9,
        targets: Targets = "auto",
    ) -> None:
        """Take what is pruned.

        Args:
            block: outputs x inputs such as ``4x4``, or ``neon`` (1x4), ``avx512``
                (1x16), ``tensor_cores`` (2:4).
            sparsity: share of a matrix's blocks that are zero at strength 1, in [0, 1);
                of ``tensor_cores`` 0.5.
            every: optimiser steps between two choices of blocks while the strength
                stands still.
            memory: what is kept at each step of a block's importance before it.
            targets: layers by the ends of their names; ``auto``: every linear layer but
                the head.

        Raises:
            InputError: no such block, or another share of ``tensor_cores``.
        """
        super().__init__(targets)
        self.block, self.sparsity, self.every = block, sparsity, every
        self.memory = memory
        self._size = _size_of(block)
        self._scratch = _Scratch()
        if block == TENSOR_CORES and sparsity != 0.5:
            raise InputError(
                f"sparsity is {sparsity:g}, and 2:4 is 0.5; set sparsity=0.5, or "
                "another block"
            )

    def made_for(self, weight: Tensor, name: str) -> nn.Module:
        """The blocks of one layer.

        Raises:
            InputError: blocks do not divide its matrix.
        """
        rows, columns = self._size
        if self.block == TENSOR_CORES:
            columns = _GROUP
        if weight.shape[0] % rows or weight.shape[1] % columns:
            raise InputError(
                f"block is {self.block}, {rows}x{columns}, which does not divide the "
                f"{weight.shape[0]} outputs and {weight.shape[1]} inputs of {name}; "
                "give another block, or targets without this layer"
            )
        of_groups = self.block == TENSOR_CORES
        return Blocks(weight, self._size, of_groups=of_groups, scratch=self._scratch)

    @torch.no_grad()
    def at(self, strength: float, step: int) -> None:
        """Take in what the last step's gradients said, and choose where it is time."""
        super().at(1.0 if strength else 0.0, step)
        every: list[Blocks] = [blended.made for _, blended in self.changed_layers]
        _take_in(every, self.memory)
        for blocks in every:
            pruned = blocks.pruned_at(strength * self.sparsity)
            if pruned != blocks.pruned or (pruned and step % self.every == 0):
                blocks.choose(pruned)


class Blocks(nn.Module):
    """One matrix in blocks."""

    prunes = True
    importance: Tensor
    measured: Tensor
    kept: Tensor

    def __init__(
        self,
        weight: Tensor,
        size: tuple[int, int],
        *,
        of_groups: bool = False,
        scratch: _Scratch | None = None,
    ) -> None:
        """Keep all.

        Args:
            weight: (out, in).
            size: outputs and inputs of a block, which divide it.
            of_groups: prune two blocks of four, or none.
            scratch: for squares; several matrices may share it.
        """
        super().__init__()
        self.size, self._of_groups = size, of_groups
        self._scratch = scratch or _Scratch()
        blocks = norms(weight.float(), size)
        self.register_buffer("importance", blocks)
        """(out / r, in / c) float32; the norm of weights before any gradient."""
        self.register_buffer("measured", torch.zeros_like(blocks[:1, :1]))
        """(1, 1) float32, above 0 after the first gradient."""
        self.register_buffer("kept", torch.ones_like(blocks, dtype=torch.bool))
        """The same shape: False of what is zero."""
        self.heard: list[Tensor] = []
        """Sum of what backward passes of this step said, the sum of its numbers, which
        tells whether all are finite, and how many passes there were."""
        self._counted: tuple[int, int] | None = None
        self._said: Tensor | None = None
        """Memory for the first of them, from step to step."""

    @property
    def pruned(self) -> int:
        """Blocks that are zero; counted anew only where ``kept`` was written to."""
        version = self.kept._version
        if self._counted is None or self._counted[0] != version:
            pruned = int(self.kept.numel() - self.kept.sum())
            self._counted = version, pruned
        return self._counted[1]

    def pruned_at(self, share: float) -> int:
        """Blocks that are zero where this share of them is."""
        if self._of_groups:  # at 0.5 of every four two
            return 2 * round(2 * share * self.kept.numel() / _GROUP)
        return round(share * self.kept.numel())

    def choose(self, pruned: int) -> None:
        """Prune so many blocks, those that matter least; of equal ones the first."""
        flat = self.importance.flatten()
        self.kept.fill_(True)
        if not self._of_groups:
            order = flat.argsort(stable=True)
            self.kept.view(-1)[order[:pruned]] = False
            return
        groups = flat.view(-1, _GROUP)
        least = groups.argsort(dim=1, stable=True)[:, :2]
        lost = groups.gather(1, least).sum(1)
        chosen = lost.argsort(stable=True)[: pruned // 2]
        kept = self.kept.view(-1, _GROUP)
        kept[chosen[:, None], least[chosen]] = False

    def hear(self, weight: Tensor, slope: Tensor) -> None:
        """Take what one backward pass says."""
        weight, slope = weight.detach().float(), slope.detach().float()
        if self.size == (1, 1):
            said = torch.mul(weight, slope, out=self._room(weight))
            said.abs_()
        else:
            room = self._scratch.like(weight)
            said = norms(weight, self.size, room)
            said *= norms(slope, self.size, room)
        total = said.sum()  # of numbers >= 0 no two cancel; at once, while it is near
        if not self.heard:
            self.heard = [said, total, torch.ones_like(self.measured)]
            return
        self.heard[0] += said
        self.heard[1] += total
        self.heard[2] += 1

    def _room(self, weight: Tensor) -> Tensor | None:
        """Where the first pass of a step is written: new memory takes longer than the
        product."""
        if self.heard:
            return None
        if self._said is None or self._said.device != weight.device:
            self._said = torch.empty_like(self.importance)
        return self._said

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) with zeros."""
        masked: Tensor = _Masked.apply(weight, self)
        return masked


class _Masked(torch.autograd.Function):
    """Zero where blocks are pruned; the gradient goes straight through and is heard."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, blocks: Blocks) -> Tensor:
        ctx.blocks = blocks
        ctx.save_for_backward(weight)
        inside = in_blocks(weight, blocks.size)
        return (inside * blocks.kept[:, None, :, None]).view(weight.shape)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        ctx.blocks.hear(*ctx.saved_tensors, slopes[0])
        return slopes[0], None


def in_blocks(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """(out, in) -> (out / r, r, in / c, c)."""
    rows, columns = size
    outputs, inputs = matrix.shape
    return matrix.reshape(outputs // rows, rows, inputs // columns, columns)


class _Scratch:
    """Memory that is written to over and over: new memory takes as long as squares."""

    def __init__(self) -> None:
        self._held: dict[torch.device, Tensor] = {}

    def like(self, matrix: Tensor) -> Tensor:
        """Of a matrix's shape and device, float32, with whatever was written last."""
        held = self._held.get(matrix.device)
        if held is None or held.numel() < matrix.numel():
            held = torch.empty(
                matrix.numel(), dtype=torch.float32, device=matrix.device
            )
            self._held[matrix.device] = held
        return held[: matrix.numel()].view(matrix.shape)


def norms(matrix: Tensor, size: tuple[int, int], room: Tensor | None = None) -> Tensor:
    """(out / r, in / c): Frobenius norm of every block.

    Args:
        matrix: (out, in).
        size: outputs and inputs of a block.
        room: of the matrix's shape, written over; new memory where left out.
    """
    squares = in_blocks(torch.mul(matrix, matrix, out=room), size)
    if size[1] > 1:  # a product with ones: sums over few numbers are slow
        squares = squares @ squares.new_ones(size[1], 1)
    return squares.sum((1, 3)).sqrt()


def _take_in(every: list[Blocks], memory: float) -> None:
    """Move importances by what was heard since, unless that is not finite; of several
    processes the mean, so that all prune alike."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for blocks in every:
            if not blocks.heard:
                zero = torch.zeros_like(blocks.measured)
                blocks.heard = [torch.zeros_like(blocks.importance), zero, zero]
        flat = [tensor.flatten() for blocks in every for tensor in blocks.heard]
        summed = torch.cat(flat)
        torch.distributed.all_reduce(summed)
        pieces = iter(summed.split([len(tensor) for tensor in flat]))
        for blocks in every:
            said, total, count = (next(pieces) for _ in range(3))
            said = said.view_as(blocks.importance)
            blocks.heard = [said, total, count.view(1, 1)]
    hearing = [blocks for blocks in every if blocks.heard]
    if not hearing:
        return
    # One wait for the device a step, and no pass over the weights for what is not so.
    facts = [
        torch.stack(
            [blocks.heard[1].view(()), count.view(()), blocks.measured.view(())]
        )
        for blocks in hearing
        for count in blocks.heard[2:]
    ]
    for blocks, fact in zip(hearing, torch.stack(facts).tolist(), strict=True):
        total, count, measured = fact
        said, blocks.heard = blocks.heard[0], []
        if not count or not math.isfinite(total):
            continue
        if count > 1:
            said.div_(count)
        blocks.importance.lerp_(said, 1 - memory if measured else 1.0)
        blocks.measured.fill_(1.0)


def _size_of(block: str) -> tuple[int, int]:
    if block == TENSOR_CORES:
        return 1, 1
    if block in BLOCKS:
        return BLOCKS[block]
    match = _SIZES.fullmatch(block)
    if match is None:
        known = ", ".join([*BLOCKS, TENSOR_CORES])
        raise InputError(
            f"block is {block!r}; give outputs x inputs such as 4x4, or one of {known}"
        )
    return int(match[1]), int(match[2])
