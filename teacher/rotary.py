"""Undo and redo a model's own rotary embedding.

No frequency is computed here: cosines and sines are those the model handed to
its attention layer, and the rotation is the function beside that layer's class.
Scaled, partial and interleaved variants therefore need no case of their own; a
numerical check at capture's construction refuses what this does not invert.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Positions = tuple[Tensor, Tensor]
"""Cosines and sines of one layer, each (1 or B, T, R or R / 2)."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How one attention layer rotates its keys."""

    apply: Callable[..., tuple[Tensor, Tensor]]
    """The model's ``apply_rotary_pos_emb(q, k, cos, sin)``."""
    per_cosine: int
    """Rotated entries per entry of the cosines: 1, or 2 where they come halved."""

    def rotate(self, k: Tensor, positions: Positions) -> Tensor:
        """Turn content keys (B, H, T, D) into the keys the model attends to."""
        cos, sin = positions
        return self._turn(k, cos.float(), sin.float()).to(k.dtype)

    def undo(self, k: Tensor, positions: Positions) -> Tensor:
        """Turn rotated keys (B, H, T, D) into content keys.

        The inverse is the rotation by the negative angle, divided by
        cos² + sin²: YaRN and LongRoPE scale both, and bf16 rounds both.
        """
        cos, sin = positions[0].float(), positions[1].float()
        norm = cos.square() + sin.square()
        return self._turn(k, cos / norm, -sin / norm).to(k.dtype)

    def _turn(self, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        width = cos.shape[-1] * self.per_cosine
        head = k[..., :width].float()
        _, turned = self.apply(head[:, :0], head, cos, sin)  # no query heads
        if width == k.shape[-1]:
            return turned
        return torch.cat((turned, k[..., width:].float()), dim=-1)


def find_rotation(
    module: nn.Module, keys: Tensor, positions: Positions | None
) -> Rotation | None:
    """Learn from one probe how an attention module rotates its keys.

    Args:
        module: the attention module.
        keys: (B, H, T, D), the keys it attended to when its input was the same
            vector at every position.
        positions: what it received as ``position_embeddings``.

    Returns:
        The rotation whose inverse makes the keys equal at every position; None
        where they already are.

    Raises:
        ValueError: neither holds, so content keys cannot be had.
    """
    for rotation in _candidates(module, keys.shape[-1], positions):
        assert positions is not None
        if _same_everywhere(rotation.undo(keys, positions)):
            return rotation if not _same_everywhere(keys) else None
    if _same_everywhere(keys):
        return None
    raise ValueError(
        f"{type(module).__name__} makes keys depend on position in a way that "
        "cannot be undone from its position_embeddings; supported are layers "
        "without rotation and those which rotate the leading entries of each head "
        "by a module-level apply_rotary_pos_emb(q, k, cos, sin)"
    )


def _candidates(
    module: nn.Module, head_size: int, positions: Positions | None
) -> list[Rotation]:
    python_module = sys.modules.get(type(module).__module__)
    apply = getattr(python_module, "apply_rotary_pos_emb", None)
    if positions is None or apply is None:
        return []
    if list(inspect.signature(apply).parameters)[:4] != ["q", "k", "cos", "sin"]:
        return []
    width = positions[0].shape[-1]
    return [
        Rotation(apply, n)
        for n in (1, 2)
        if width * n <= head_size and _accepts(apply, positions, width * n)
    ]


def _accepts(
    apply: Callable[..., tuple[Tensor, Tensor]], positions: Positions, width: int
) -> bool:
    cos, sin = positions[0].float(), positions[1].float()
    probe = torch.ones((cos.shape[0], 1, cos.shape[1], width), device=cos.device)
    try:
        return apply(probe, probe, cos, sin)[1].shape == probe.shape
    except RuntimeError:  # cosines of this width do not fit these keys
        return False


def _same_everywhere(keys: Tensor) -> bool:
    rounding = 1e-4 if keys.dtype in (torch.float32, torch.float64) else 3e-2
    keys, first = keys.float(), keys[:, :, :1].float()
    return bool((keys - first).abs().max() <= rounding * first.abs().max())
