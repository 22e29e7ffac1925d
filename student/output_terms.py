"""Terms that compare next-token distributions, each an objective by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from align.output import Output
from student.objective import OUTPUTS, Objective, StepContext, Term
from student.output import (
    Divergence,
    HeadInput,
    Labels,
    Support,
    chunk_likelihood,
    linear_divergence,
    linear_log_likelihood,
    shared_chunks,
)
from student.outputs import Outputs, Taught, same_predictions

_LEAST = 1e-9  # keeps a quotient of weights finite where there are none


def distillation(ctx: StepContext) -> Tensor:
    """Divergence from teachers of the student's vocabulary, with hard labels if asked.

    Source:
        Hinton, Vinyals and Dean 2015 (arXiv 1503.02531); the divergences are those of
        :mod:`student.output.divergence`. Several teachers: the mean over tokens and
        teachers by weight, or the divergence from the weighted mean of their
        distributions.
    """
    outputs = ctx.outputs
    if outputs is None:
        return _zero(ctx)
    config, own = outputs.config, outputs.student
    hidden = own.hidden.flatten(0, 1)
    compare = partial(
        linear_divergence,
        hidden,
        own.head,
        settings=Divergence(
            config.divergence, config.mix, Support(config.top_k, config.threshold)
        ),
        temperature=config.temperature,
        block=config.block,
    )
    sides = [_at_students_places(own, taught) for taught in outputs.of("kd")]
    labels = _labels(outputs) if config.hard_labels else None
    if len(sides) == 1:
        return compare([sides[0][0]], weight=sides[0][1], labels=labels)
    loss = _zero(ctx)
    if labels is not None:
        loss = compare([], labels=labels)
    if not sides:
        return loss
    weights = torch.stack([weight for _, weight in sides])
    if config.combine == "distributions":
        shares = (weights / weights.sum(0).clamp_min(_LEAST)).log()
        mixed = [
            HeadInput(side.hidden, side.head, share)
            for (side, _), share in zip(sides, shares, strict=True)
        ]
        return loss + compare(mixed, weight=weights.sum(0))
    parts = weights.sum(1) / weights.sum().clamp_min(_LEAST)
    for (side, weight), part in zip(sides, parts, strict=True):
        loss = loss + part * compare([side], weight=weight)
    return loss


def text_likelihood(ctx: StepContext) -> Tensor:
    """Distance between the probabilities of stretches of text, across vocabularies.

    See :func:`student.output.chunk_likelihood`; the mean over stretches and teachers by
    the teachers' weights at the student's last token of each stretch.
    """
    outputs = ctx.outputs
    total, weight = _zero(ctx), _zero(ctx)
    if outputs is None:
        return total
    config, own = outputs.config, outputs.student
    student = _label_log_probs(own, config.block)
    for taught in outputs.of("likelihood"):
        chunks = shared_chunks(own.tokens, taught.output.tokens)
        with torch.no_grad():
            teacher = _label_log_probs(taught.output, config.block)
        share = taught.weight.flatten()[chunks.student.last]
        total = total + chunk_likelihood(
            student,
            teacher,
            chunks,
            form=config.likelihood_form,  # type: ignore[arg-type]  # checked there
            temperature=config.likelihood_temperature,
            weight=share,
            reduction="sum",
        )
        weight = weight + share.sum()
    return total / weight.clamp_min(_LEAST)


OUTPUT_OBJECTIVES: Mapping[str, Callable[[], Objective]] = {
    "kd": lambda: Term(distillation, frozenset({OUTPUTS})),
    "likelihood": lambda: Term(text_likelihood, frozenset({OUTPUTS})),
}
"""The built-in terms on outputs by name."""


def _at_students_places(own: Output, taught: Taught) -> tuple[HeadInput, Tensor]:
    """A teacher's hidden states (N, C) and weights (N,) where the student predicts.

    Raises:
        ValueError: the vocabularies differ.
    """
    other = taught.output
    if other.vocabulary != own.vocabulary:
        raise ValueError(
            f"teacher {taught.name!r} has another vocabulary than the student, so its "
            "distribution over tokens means something else; use output.likelihood, or "
            "leave it out of output.teachers.kd"
        )
    place = same_predictions(own.tokens, other.tokens).flatten()
    hidden = other.hidden.flatten(0, 1)[place.clamp_min(0)]
    weight = _next(taught.weight).flatten() * (place >= 0)
    return HeadInput(hidden, other.head), weight


def _labels(outputs: Outputs) -> Labels:
    """The student's next tokens, weighing ``hard_labels`` in all."""
    tokens, config = outputs.student.tokens, outputs.config
    weight = _next(tokens.predicted.float()).flatten()
    weight = weight * (config.hard_labels / weight.sum().clamp_min(1))
    return Labels(_next(tokens.ids).flatten(), weight, config.label_smoothing)


def _label_log_probs(output: Output, block: int) -> Tensor:
    """(B, T) log-probability of every token after those before it; 0 for the first."""
    real = output.tokens.mask.clone()
    real[:, :1] = False
    before = real.roll(-1, 1)  # the first place is never real, so nothing wraps
    found = linear_log_likelihood(
        output.hidden[before], output.head, output.tokens.ids[real], block
    )
    return found.new_zeros(real.shape).masked_scatter(real, found)


def _next(x: Tensor) -> Tensor:
    """(B, T) values of the token after each; 0 after the last."""
    return torch.nn.functional.pad(x[:, 1:], (0, 1))


def _zero(ctx: StepContext) -> Tensor:
    return ctx.logits.new_zeros((), dtype=torch.float32)
