"""Transport between the tokens that two models think likeliest, by the settings."""

from __future__ import annotations

import torch
from torch import Tensor

from student.output import (
    HeadInput,
    linear_top_tokens,
    support_sizes,
    token_transport,
)
from student.output_config import OutputConfig


def moved(
    config: OutputConfig,
    student: HeadInput,
    *,
    teacher: HeadInput,
    vectors: tuple[Tensor, Tensor],
    weight: Tensor,
    temperature: float | Tensor,
) -> Tensor:
    """Sum of costs, by weight, of moving mass between the likeliest tokens of both.

    Args:
        config: how many tokens.
        student: (P, C_s) hidden states of the places, with their gradient.
        teacher: (P, C_t).
        vectors: (V_s, D) and (V_t, D), what tokens of either mean.
        weight: (P,) float32 >= 0.
        temperature: > 0, of both; one or (P,).
    """
    student_top = linear_top_tokens(student.hidden, student.head, config.ot_top_k)
    with torch.no_grad():
        other = linear_top_tokens(teacher.hidden, teacher.head, config.ot_top_k)
    if config.ot_adaptive:
        sizes = support_sizes(other.entropy, other.ids.shape[1])
        student_top, other = student_top.limited(sizes), other.limited(sizes)
    return token_transport(
        student_top,
        other,
        *vectors,
        student_temperature=temperature,
        teacher_temperature=temperature,
        weight=weight,
        reduction="sum",
    ).loss
