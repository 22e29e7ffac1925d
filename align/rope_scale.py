"""Rotary positions: undo them, and redo them for another context length.

Changing a base never rescales keys that are already rotated. A scaler therefore
un-rotates with the teacher's own frequencies and rotates again with the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from align.errors import InputError

Rescale = Callable[[float, int, float], float]
"""(base, rotary width, scale) -> new base."""


def inverse_frequencies(base: float, dim: int) -> Tensor:
    """Radians a token for each pair of channels.

    Args:
        base: the rotary base, > 0; 10000 in most models.
        dim: the rotary width, even.

    Returns:
        (dim / 2,) float64, base ** (-2 i / dim).

    Raises:
        ValueError: ``dim`` is odd or ``base`` is not positive.

    Source:
        Su et al. (2021), RoFormer, section 3.2.2.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"the rotary width must be even and >= 2, got {dim}")
    if base <= 0:
        raise ValueError(f"the rotary base must be > 0, got {base}")
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def rotary_table(
    inv_freq: Tensor, position_ids: Tensor, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position.

    Args:
        inv_freq: (D / 2,) radians a token.
        position_ids: (..., T) token positions.
        interleaved: pairs are neighbours (0, 1), (2, 3) as in GPT-J and Cohere,
            instead of halves (0, D / 2) as in Llama and GPT-NeoX.

    Returns:
        cos and sin, (..., T, D) float64.
    """
    angle = position_ids.to(torch.float64)[..., None] * inv_freq.to(position_ids.device)
    if interleaved:
        angle = angle.repeat_interleave(2, dim=-1)
    else:
        angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotate the leading channels of keys or queries.

    Args:
        x: (..., T, D) float.
        cos: (..., T, R), R <= D; channels from R on stay as they are.
        sin: like ``cos``.
        interleaved: see :func:`rotary_table`.

    Returns:
        (..., T, D), dtype of ``x``, computed in at least float32.

    Raises:
        ValueError: R is larger than D.
    """
    width = cos.shape[-1]
    if width > x.shape[-1]:
        raise ValueError(
            f"cos turns {width} channels, but x has {x.shape[-1]}; give a rotary "
            "width within the head size"
        )
    wide = torch.promote_types(x.dtype, torch.float32)
    turned = x[..., :width].to(wide)
    cos, sin = cos.to(turned), sin.to(turned)
    turned = (turned * cos + _quarter_turn(turned, interleaved) * sin).to(x.dtype)
    if width == x.shape[-1]:
        return turned
    return torch.cat([turned, x[..., width:]], dim=-1)


def scaled_base(
    base: float,
    dim: int,
    scale: float,
    method: str = "ntk",
    exponent: float = 2 / 3,
) -> float:
    """The rotary base for a context ``scale`` times as long.

    Args:
        base: the model's own base.
        dim: the rotary width d.
        scale: s >= 1.
        method: ``ntk`` is base * s ** exponent, this project's documented formula;
            ``ntk-aware`` and ``dynamic`` are base * s ** (d / (d - 2)), with s from
            the actual length in the dynamic case; ``none`` and ``linear`` leave the
            base alone.
        exponent: the exponent of ``ntk``.

    Returns:
        The new base; exactly ``base`` where scale is 1.

    Raises:
        ValueError: an unknown method, or scale below 1.

    Source:
        ``ntk-aware``: bloc97 (2023), "NTK-Aware Scaled RoPE"; Peng et al. (2023),
        YaRN, equation 16. ``dynamic``: emozilla (2023). ``ntk`` with 2/3 departs from
        both, on purpose.
    """
    _check_method(method)
    if scale < 1:
        raise ValueError(f"scale must be >= 1, got {scale}")
    if scale == 1 or method in ("none", "linear"):
        return base
    if method == "ntk":
        return base * scale**exponent
    if dim <= 2:
        raise InputError(f"{method} needs a rotary width above 2, got {dim}")
    return base * scale ** (dim / (dim - 2))


METHODS = ("none", "linear", "ntk", "ntk-aware", "dynamic")
"""Built-in scaling methods."""


def scaled_frequencies(
    base: float, dim: int, scale: float, rescale: Rescale, linear: bool = False
) -> Tensor:
    """Radians a token for each pair of channels, for a longer context.

    Args:
        base: the model's own base.
        dim: the rotary width, even.
        scale: how many times longer the context is, >= 1.
        rescale: see :func:`scaled_base`.
        linear: divide all of them by the scale, too, which no base can express.

    Returns:
        (dim / 2,) float64.

    Source:
        ``linear`` is position interpolation, Chen et al. (2023), section 2.3.
    """
    frequencies = inverse_frequencies(rescale(base, dim, scale), dim)
    return frequencies / scale if linear else frequencies


class MultiTeacherRoPEScaler:
    """Re-rotate each teacher's keys for the student's context length.

    For keys that are at hand already rotated. A run captures content keys, which no
    rotation touches, and stretches the teacher's own embedding before it reads
    (``teacher.loading.longer_texts.extend_context``), by the same
    :func:`scaled_frequencies`.

    A teacher with at least the student's context has s = 1, and its keys come back
    untouched, bit for bit.
    """

    def __init__(
        self,
        teacher_configs: Sequence[tuple[float, int]],
        student_max_len: int,
        scaling_method: str | Rescale = "ntk",
        interleaved: bool | Sequence[bool] = False,
        rotary_dim: int | Sequence[int | None] | None = None,
        exponent: float = 2 / 3,
    ) -> None:
        """Note each teacher's rotary embedding.

        Args:
            teacher_configs: (base, longest context in tokens) of M teachers.
            student_max_len: the student's longest context in tokens.
            scaling_method: one of :data:`METHODS`, or a function
                (base, rotary width, scale) -> new base.
            interleaved: see :func:`rotary_table`; one for all or one a teacher.
            rotary_dim: how many leading channels are rotated; None is all of them;
                one for all or one a teacher.
            exponent: the exponent of ``ntk``.

        Raises:
            ValueError: an unknown method, or a length or base that is not positive.
        """
        if isinstance(scaling_method, str):
            _check_method(scaling_method)
        if student_max_len < 1:
            raise ValueError(f"student_max_len must be >= 1, got {student_max_len}")
        for index, (base, length) in enumerate(teacher_configs):
            if base <= 0 or length < 1:
                raise ValueError(
                    f"teacher_configs[{index}] is {(base, length)}; give (base > 0, "
                    "longest context >= 1)"
                )
        self.teacher_configs = tuple(teacher_configs)
        self.student_max_len = student_max_len
        self.scaling_method = scaling_method
        self.exponent = exponent
        count = len(self.teacher_configs)
        self.interleaved = _one_each("interleaved", interleaved, count)
        self.rotary_dim = _one_each("rotary_dim", rotary_dim, count)

    def scale_of(self, teacher: int, length: int | None = None) -> float:
        """How many times longer the context must be than the teacher's, >= 1.

        Args:
            teacher: index of the teacher.
            length: for ``dynamic``, the actual length in place of the student's.
        """
        dynamic = self.scaling_method == "dynamic" and length is not None
        context = length if dynamic and length is not None else self.student_max_len
        return max(1.0, context / self.teacher_configs[teacher][1])

    def scale_kv_pairs(
        self,
        ks: Sequence[Tensor],
        vs: Sequence[Tensor],
        position_ids: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Re-rotate keys; values carry no position.

        Args:
            ks: M of (..., T, D) keys, rotated with each teacher's own base.
            vs: M of values, returned as they are.
            position_ids: (..., T) positions, broadcast against the keys' leading
                axes; None counts from 0.

        Returns:
            Keys and values of the same shapes and dtypes.

        Raises:
            ValueError: the number of teachers differs.
        """
        count = len(self.teacher_configs)
        if len(ks) != count or len(vs) != count:
            raise ValueError(
                f"{len(ks)} keys and {len(vs)} values for {count} teachers; give one "
                "of each a teacher"
            )
        keys = [self._rescale(m, k, position_ids) for m, k in enumerate(ks)]
        return keys, list(vs)

    def _rescale(self, teacher: int, k: Tensor, position_ids: Tensor | None) -> Tensor:
        if position_ids is None:
            position_ids = torch.arange(k.shape[-2], device=k.device)
        if not position_ids.numel():
            return k
        scale = self.scale_of(teacher, int(position_ids.max()) + 1)
        if scale == 1 or self.scaling_method == "none":
            return k
        base, width = self.teacher_configs[teacher][0], self.rotary_dim[teacher]
        width = k.shape[-1] if width is None else width
        new = scaled_frequencies(
            base, width, scale, self._scale_base, self.scaling_method == "linear"
        )
        # R(-p theta) and then R(p theta') is R(p (theta' - theta)), since rotations of
        # one plane add: one rounding instead of two.
        slower = new - inverse_frequencies(base, width)
        pairs = self.interleaved[teacher]
        return rotate(k, *rotary_table(slower, position_ids, pairs), pairs)

    def _scale_base(self, base: float, dim: int, scale: float) -> float:
        if isinstance(self.scaling_method, str):
            return scaled_base(base, dim, scale, self.scaling_method, self.exponent)
        return self.scaling_method(base, dim, scale)


def _quarter_turn(x: Tensor, interleaved: bool) -> Tensor:
    """Each pair (a, b) to (-b, a)."""
    if interleaved:
        return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _one_each(name: str, value: object, count: int) -> tuple:
    if not isinstance(value, (list, tuple)):
        return (value,) * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} entries for {count} teachers")
    return tuple(value)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(
            f"unknown RoPE scaling {method!r}; valid are {', '.join(METHODS)}"
        )
