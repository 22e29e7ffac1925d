"""The space that is tried: made, calibrated, moved, and asked for all it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from align.calibration import METHODS
from plugins.contracts.space.lesson import (
    Lesson,
    pair_statistics,
    student_shape,
    teacher_shapes,
)
from plugins.hookspecs import Space
from plugins.seeds import chance
from plugins.untouched import Untouched
from student.bridges.base import Bridge, TeacherShape
from student.objective import Compared

CLOSE = partial(torch.allclose, rtol=1e-4, atol=1e-5, equal_nan=True)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a plugin offers."""

    factory: Space

    def built(
        self, teachers: tuple[TeacherShape, ...] | None = None, seed: int = 0
    ) -> tuple[Bridge, list[dict[str, list[float]]]]:
        """A calibrated bridge, and what each teacher's calibration reports.

        Args:
            teachers: None: all three of the contract's.
            seed: of what it draws, and of the sample.

        Raises:
            RuntimeError: making it changed the process.
        """
        teachers = teacher_shapes() if teachers is None else teachers
        student = student_shape()
        with chance(seed):
            before = Untouched({})
            bridge = self.factory(student, teachers, METHODS["procrustes"])
            changed = before.problem()
            if changed:
                raise RuntimeError(changed)
            with torch.no_grad():
                fits = [
                    bridge.calibrate(m, *pair_statistics(student, teacher, seed + m))
                    for m, teacher in enumerate(teachers)
                ]
        return bridge, fits

    def made(
        self, teachers: tuple[TeacherShape, ...] | None = None, seed: int = 0
    ) -> Bridge:
        """A calibrated bridge; see :meth:`built`."""
        return self.built(teachers, seed)[0]

    def moved(self, seed: int = 0) -> Bridge:
        """One whose parameters have learned something: many begin as the identity."""
        bridge, generator = self.made(seed=seed), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in bridge.parameters():
                p.add_(torch.randn(p.shape, generator=generator).to(p) * 0.1)
        return bridge


def distance(bridge: Bridge, part: Lesson) -> Tensor:
    """What the terms on keys and values make of the comparisons."""
    total = torch.zeros(())
    for c in bridge.compare(part.kv, part.views, part.weights):
        for side in ("k", "v"):
            apart = c.distance(side) + 1 - c.cosine(side)  # type: ignore[arg-type]
            total = total + (c.weight * apart).mean(0).sum()
    return total


def targets(bridge: Bridge, part: Lesson) -> list[Tensor]:
    """What the student is pulled towards, keys and values of every comparison."""
    met = bridge.compare(part.kv, part.views, part.weights)
    return [x.detach().clone() for c in met for x in (c.target_k, c.target_v)]


def answers(
    bridge: Bridge, part: Lesson, first: int | None = None
) -> dict[str, Tensor]:
    """All that a bridge says of a batch, by what it is.

    Args:
        bridge: calibrated.
        part: the batch.
        first: of so many texts alone, and then without its own losses, which may be
            means over a batch; None: everything.
    """
    tensors: dict[str, Tensor] = {}
    with chance(0):
        met: Sequence[Compared] = bridge.compare(part.kv, part.views, part.weights)
        fused = bridge.fuse_for_injection(part.views, part.weights)
        losses = {} if first is not None else bridge.auxiliary(part.kv, part.views)
    for index, c in enumerate(met):
        weight = c.weight.expand(c.pred_k.shape[:3])
        for name in ("pred_k", "target_k", "pred_v", "target_v"):
            x = getattr(c, name) * (weight > 0)[..., None]
            tensors[f"comparison {index}, {name}"] = x[:, :first]
        tensors[f"comparison {index}, weight"] = weight[:, :first]
    if fused is not None:
        covered = fused.mask[:, None, :, None]
        tensors["injected keys"] = (fused.k * covered)[:, :first]
        tensors["injected values"] = (fused.v * covered)[:, :first]
        tensors["injected mask"] = fused.mask[:first]
    tensors |= {f"loss {name}": value for name, value in losses.items()}
    return {name: x.detach().clone() for name, x in tensors.items()}
