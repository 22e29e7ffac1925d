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

from align.errors import InputError

Positions = tuple[Tensor, Tensor]
"""Cosines and sines of one layer, each (1 or B, T, R or R / 2)."""
Turn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A model's rotation: (B, H, T, R) keys, cosines, sines -> keys."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How one attention layer rotates its keys.

    Latent attention (MLA) puts a rotated part, shared by all heads, behind a part
    without position that each head has for itself. Its content keys are both parts
    of every head, (D_nope + D_rope) wide. Where DeepSeek moves even entries of the
    second before odd ones as it rotates them, they stand so in the content as well:
    an order is as good as another, and this one its plain rotation undoes.
    """

    turn: Turn
    """The model's own function, for keys alone."""
    per_cosine: int
    """Rotated entries per entry of the cosines: 1, or 2 where they come halved."""
    trailing: bool = False
    """Whether the last entries of a head are rotated instead of the first."""

    def rotate(self, k: Tensor, positions: Positions) -> Tensor:
        """Turn content keys (B, H, T, D) into the keys the model attends to."""
        cos, sin = _wide(positions)
        still, part = self._split(k, cos)
        return self._joined(still, self.turn(_at_least(part, cos), cos, sin), k)

    def undo(self, k: Tensor, inverse: Positions, out: Tensor | None = None) -> Tensor:
        """Turn rotated keys (B, H, T, D) into content keys.

        Args:
            k: what the model attended to.
            inverse: of its cosines and sines, by :func:`inverted`.
            out: where to write, like ``k``; None makes a new tensor.
        """
        still, part = self._split(k, inverse[0])
        part = self.turn(_at_least(part, inverse[0]), *inverse)
        if out is None:
            return self._joined(still, part, k)
        for place, unrotated in zip(
            self._split(out, inverse[0]), (still, part), strict=True
        ):
            place.copy_(unrotated)
        return out

    def _split(self, k: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
        width = cos.shape[-1] * self.per_cosine
        rest = k.shape[-1] - width
        if self.trailing:
            return k[..., :rest], k[..., rest:]
        return k[..., width:], k[..., :width]

    def _joined(self, still: Tensor, part: Tensor, k: Tensor) -> Tensor:
        part = part.to(k.dtype)
        if not still.shape[-1]:
            return part
        return torch.cat((still, part) if self.trailing else (part, still), dim=-1)


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
        raise InputError(
            f"{type(module).__name__} gives keys that are all 0, which says nothing "
            "of how it rotates them; load trained weights"
        )
    if _same_everywhere(keys):
        return None
    inverse = None if positions is None else inverted(positions)
    for rotation in _candidates(module, keys.shape[-1], positions):
        assert inverse is not None
        if _same_everywhere(rotation.undo(keys, inverse)):
            return rotation
    raise InputError(
        f"{type(module).__name__} makes keys depend on position in a way that "
        "cannot be undone from its position_embeddings; supported are layers "
        "without rotation and those which rotate the leading or trailing entries of "
        "each head by a module-level apply_rotary_pos_emb(q, k, cos, sin)"
    )


def inverted(positions: Positions) -> Positions:
    """What turns keys back: the negative angle, divided by cos² + sin².

    A pair of channels is multiplied by R = [[c, -s], [s, c]] (Su et al. 2021, 3.2),
    whose inverse is R^T / (c² + s²). The divisor is 1 only in theory: YaRN and LongRoPE
    scale cosines and sines by an attention factor, and bf16 rounds both.
    """
    cos, sin = _wide(positions)
    norm = cos.square() + sin.square()
    return cos / norm, -sin / norm


def _wide(positions: Positions) -> Positions:
    dtype = torch.promote_types(positions[0].dtype, torch.float32)
    return positions[0].to(dtype), positions[1].to(dtype)


def _at_least(x: Tensor, like: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, like.dtype))


def _candidates(
    module: nn.Module, head_size: int, positions: Positions | None
) -> Iterator[Rotation]:
    if positions is None:
        return
    turn = _turn(module)
    for per_cosine in (1, 2):
        width = positions[0].shape[-1] * per_cosine
        if turn is None or width > head_size or not _accepts(turn, positions, width):
            continue
        yield Rotation(turn, per_cosine)
        if width < head_size:
            yield Rotation(turn, per_cosine, trailing=True)


def _turn(module: nn.Module) -> Turn | None:
    python_module = sys.modules.get(type(module).__module__)
    apply = getattr(python_module, "apply_rotary_pos_emb", None)
    if apply is None:
        return None
    parameters = list(inspect.signature(apply).parameters)
    if parameters[:4] == ["q", "k", "cos", "sin"]:
        return _of_pairs(apply)
    return apply if parameters[:3] == ["x", "cos", "sin"] else None


def _of_pairs(apply: Callable[..., tuple[Tensor, Tensor]]) -> Turn:
    def turn(k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return apply(k[:, :0], k, cos, sin)[1]  # no query heads

    return turn


def _accepts(turn: Turn, positions: Positions, width: int) -> bool:
    cos, sin = (part[:1, :1].float() for part in positions)
    probe = torch.ones((1, 1, 1, width), device=cos.device)
    try:
        return turn(probe, cos, sin).shape == probe.shape
    except RuntimeError:  # cosines of this width do not fit these keys
        return False


def _same_everywhere(keys: Tensor) -> bool:
    rounding = 1e-4 if keys.dtype in (torch.float32, torch.float64) else 3e-2
    keys, first = keys.float(), keys[:, :, :1].float()
    return bool((keys - first).abs().max() <= rounding * first.abs().max())
