"""Undo and redo a model's own rotary embedding.

No frequency is computed here: cosines and sines are those the model handed to
its attention layer, and the rotation is the function beside that layer's class.
Scaled, partial and interleaved variants therefore need no case of their own; a
numerical check at capture's construction refuses what this does not invert.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Positions = tuple[Tensor, Tensor]
"""Cosines and sines of one layer, each (1 or B, T, R or R / 2)."""
Turn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A model's rotation: (B, H, T, R) keys, cosines, sines -> keys."""

FUNCTIONS = ("apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave")
"""What transformers calls the rotation beside an attention class."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How one attention layer rotates its keys.

    Latent attention (MLA) puts a rotated part, shared by all heads, behind a part
    without position that each head has for itself. Its content keys are both parts
    of every head, (D_nope + D_rope) wide, the second as its projection gave it.
    """

    turn: Turn
    """The model's own function, for keys alone."""
    per_cosine: int
    """Rotated entries per entry of the cosines: 1, or 2 where they come halved."""
    trailing: bool = False
    """Whether the last entries of a head are rotated instead of the first."""
    order: tuple[int, ...] | None = None
    """Entry i of what ``turn`` gives comes from entry order[i]; None where it keeps
    the order. DeepSeek's interleaved rotation moves even entries before odd ones."""

    def rotate(self, k: Tensor, positions: Positions) -> Tensor:
        """Turn content keys (B, H, T, D) into the keys the model attends to."""
        cos, sin = _wide(positions, k)
        still, part = self._split(k, cos)
        return self._join(still, self.turn(part, cos, sin), k)

    def undo(self, k: Tensor, positions: Positions) -> Tensor:
        """Turn rotated keys (B, H, T, D) into content keys.

        The inverse is the rotation by the negative angle, divided by
        cos² + sin²: YaRN and LongRoPE scale both, and bf16 rounds both.
        """
        cos, sin = _wide(positions, k)
        norm = cos.square() + sin.square()
        still, part = self._split(k, cos)
        part = self._restored(part)  # what turn will reorder
        part = self._restored(self.turn(part, cos / norm, -sin / norm))
        return self._join(still, part, k)

    def _split(self, k: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
        width = cos.shape[-1] * self.per_cosine
        rest = k.shape[-1] - width
        if self.trailing:
            return k[..., :rest], k[..., rest:].to(cos.dtype)
        return k[..., width:], k[..., :width].to(cos.dtype)

    def _join(self, still: Tensor, part: Tensor, k: Tensor) -> Tensor:
        part = part.to(k.dtype)
        if not still.shape[-1]:
            return part
        return torch.cat((still, part) if self.trailing else (part, still), dim=-1)

    def _restored(self, part: Tensor) -> Tensor:
        if self.order is None:
            return part
        index = torch.tensor(self.order, device=part.device).argsort()
        return part[..., index]


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
        ValueError: neither holds, so content keys cannot be had; or all keys are 0.
    """
    if positions is not None and not bool(keys.any()):
        raise ValueError(
            f"{type(module).__name__} gives keys that are all 0, which says nothing "
            "of how it rotates them; load trained weights"
        )
    if _same_everywhere(keys):
        return None
    for rotation in _candidates(module, keys.shape[-1], positions):
        assert positions is not None
        if _same_everywhere(rotation.undo(keys, positions)):
            return rotation
    raise ValueError(
        f"{type(module).__name__} makes keys depend on position in a way that "
        "cannot be undone from its position_embeddings; supported are layers "
        "without rotation and those which rotate the leading or trailing entries of "
        "each head by a module-level apply_rotary_pos_emb(q, k, cos, sin)"
    )


def _wide(positions: Positions, k: Tensor) -> Positions:
    dtype = torch.promote_types(k.dtype, torch.float32)
    return positions[0].to(dtype), positions[1].to(dtype)


def _candidates(
    module: nn.Module, head_size: int, positions: Positions | None
) -> Iterator[Rotation]:
    if positions is None:
        return
    for turn in _turns(module):
        for per_cosine in (1, 2):
            width = positions[0].shape[-1] * per_cosine
            order = _order(turn, positions, width) if width <= head_size else None
            if order is None:
                continue
            moved = None if order == tuple(range(width)) else order
            yield Rotation(turn, per_cosine, False, moved)
            if width < head_size:
                yield Rotation(turn, per_cosine, True, moved)


def _turns(module: nn.Module) -> Iterator[Turn]:
    python_module = sys.modules.get(type(module).__module__)
    for name in FUNCTIONS:
        apply = getattr(python_module, name, None)
        if apply is None:
            continue
        parameters = list(inspect.signature(apply).parameters)
        if parameters[:4] == ["q", "k", "cos", "sin"]:
            yield _of_pairs(apply)
        elif parameters[:3] == ["x", "cos", "sin"]:
            yield apply


def _of_pairs(apply: Callable[..., tuple[Tensor, Tensor]]) -> Turn:
    def turn(k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return apply(k[:, :0], k, cos, sin)[1]  # no query heads

    return turn


def _order(turn: Turn, positions: Positions, width: int) -> tuple[int, ...] | None:
    """Where each entry comes from; None if cosines do not fit keys of this width."""
    cos = torch.ones_like(positions[0][:1, :1], dtype=torch.float32)
    probe = torch.arange(width, dtype=torch.float32, device=cos.device)
    try:
        turned = turn(probe.view(1, 1, 1, width), cos, torch.zeros_like(cos))
    except RuntimeError:
        return None
    return tuple(int(x) for x in turned.flatten()) if turned.numel() == width else None


def _same_everywhere(keys: Tensor) -> bool:
    rounding = 1e-4 if keys.dtype in (torch.float32, torch.float64) else 3e-2
    keys, first = keys.float(), keys[:, :, :1].float()
    return bool((keys - first).abs().max() <= rounding * first.abs().max())
