"""How near the student's keys and values are to those of every teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from align.views import Captured, TeacherView, with_kv
from student.bridges.base import Bridge
from student.objective import Compared
from student.step.context import of_kv


@torch.no_grad()
def kv_fit(
    bridge: Bridge, captured: Captured, views: Sequence[TeacherView], available: Tensor
) -> Tensor:
    """Compare the student with one teacher after another, as the space compares.

    Args:
        bridge: of the teachers that bring keys and values.
        captured: the student, seen from inside, with all its layers.
        views: one per teacher.
        available: (B, T, M) bool, which teacher covers which token.

    Returns:
        (B, T, M) float32: mean cosine over layers, keys and values; NaN where a teacher
        covers nothing or brings none.
    """
    kv = replace(captured.kv, k=captured.kv.k.detach(), v=captured.kv.v.detach())
    met, covers = with_kv(views), of_kv(available, views).float()
    fits = torch.full(available.shape, torch.nan, device=available.device)
    columns = [m for m, view in enumerate(views) if view.kv is not None]
    for index, (m, view) in enumerate(zip(columns, met, strict=True)):
        alone = torch.zeros_like(covers)
        alone[..., index] = covers[..., index]
        compared = _of_teacher(bridge.compare(kv, met, alone), view.name)
        fits[..., m] = _cosine(compared).where(available[..., m], torch.nan)
    return fits


def _of_teacher(compared: Sequence[Compared], name: str) -> Compared:
    """The teacher's own comparison where a space has one for each, else the fused."""
    named = [each for each in compared if each.name == name]
    return (named or list(compared))[0]


def _cosine(compared: Compared) -> Tensor:
    """(B, T)."""
    both = [compared.cosine("k").float(), compared.cosine("v").float()]
    return torch.stack(both).mean((0, 1))
