"""What is wrong with one answer of a space; its contract and its guard ask alike.

Each function returns a sentence that goes on after the plugin's name, or an empty
string.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from align.kv import KV
from align.views import TeacherView
from plugins.answers import counts_problem, loss_problem
from student.bridges.base import Bridge

_SIDES = (("pred_k", "target_k"), ("pred_v", "target_v"))


def fit_problem(answer: Any, bridge: Bridge) -> str:
    """What is wrong with the report of a calibration."""
    layers = bridge.student.layers
    if not isinstance(answer, Mapping):
        return f"reports a {type(answer).__name__}; return a dict of lists"
    for name, numbers in answer.items():
        sized = isinstance(numbers, Sequence) and len(numbers) == layers
        if not sized or not all(isinstance(x, int | float) for x in numbers):
            return f"reports {name!r} without one number for each of {layers} layers"
    return ""


def comparisons_problem(
    comparisons: Any, kv: KV, weights: Tensor, whole: bool = False
) -> str:
    """What is wrong with the comparisons of one batch.

    Args:
        comparisons: what ``compare`` returned.
        kv: the student's, (L, B, H, T, D).
        weights: (B, T, M) or (L, B, T, M) float32, as it was given.
        whole: also look at tensors that a comparison makes for its reader, for
            contracts.
    """
    if not isinstance(comparisons, Sequence) or not len(comparisons):
        return f"compares a {type(comparisons).__name__}; return a list of Comparison"
    layers, batch, _, tokens, _ = kv.k.shape
    places = (layers, batch, tokens)
    uncounted = weights.sum(-1) == 0  # (B, T) or (L, B, T)
    for comparison in comparisons:
        wrong = _weight_problem(comparison, places, uncounted)
        if wrong:
            return wrong
        for pred, target in _SIDES:
            given = _held(comparison, pred, whole), _held(comparison, target, whole)
            wrong = _pair_problem(*given, places, pred[-1])
            if wrong:
                return wrong
    return ""


def _held(comparison: Any, name: str, whole: bool) -> Any:
    """A tensor of a comparison; None where it would be made now, unless ``whole``."""
    made = isinstance(getattr(type(comparison), name, None), property)
    return None if made and not whole else getattr(comparison, name, None)


def _weight_problem(
    comparison: Any, places: tuple[int, int, int], uncounted: Tensor
) -> str:
    weight = getattr(comparison, "weight", None)
    if not isinstance(weight, Tensor):
        return f"compares a {type(comparison).__name__}; return a list of Comparison"
    if tuple(weight.shape) not in (places, places[1:]):
        return (
            f"weighs a comparison by shape {tuple(weight.shape)}; give (B, T) or "
            f"(L, B, T), here {places}"
        )
    if weight.requires_grad:
        return "weighs a comparison with a gradient; targets and weights are detached"
    outside = uncounted.expand(weight.shape) if weight.dim() == 3 else uncounted
    if weight.dim() == 2 and outside.dim() == 3:
        outside = outside.all(0)
    odd, counted = torch.stack(
        [(~(weight >= 0) | weight.isinf()).any(), (outside & (weight != 0)).any()]
    ).tolist()
    if odd:
        return "weighs a comparison by numbers that are not finite and >= 0"
    if counted:
        return "gives weight to a token that no teacher counts for"
    return ""


def _pair_problem(
    pred: Any, target: Any, places: tuple[int, int, int], side: str
) -> str:
    for name, x in (("pred", pred), ("target", target)):
        if x is None:
            continue
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return f"has a {name}_{side} that is no tensor of floats"
        if x.dim() != 4 or tuple(x.shape[:3]) != places:
            return (
                f"has a {name}_{side} of shape {tuple(x.shape)}; give (L, B, T, C), "
                f"here {places} and any width"
            )
    if pred is not None and target is not None and pred.shape != target.shape:
        return (
            f"compares a pred_{side} of width {pred.shape[3]} with a target_{side} of "
            f"width {target.shape[3]}"
        )
    if target is not None and target.requires_grad:
        return f"has a target_{side} with a gradient; detach it"
    asked = pred is not None and target is not None and torch.is_grad_enabled()
    if asked and not pred.requires_grad:
        return f"has a pred_{side} without a gradient to the student"
    return ""


def injection_problem(
    injection: Any, bridge: Bridge, views: Sequence[TeacherView]
) -> str:
    """What is wrong with what is injected into the student."""
    causal = [view.causal for view in views if view.causal is not None]
    if injection is None:
        return ""
    if not causal:
        return "injects a bidirectional teacher, which has read the future"
    if not isinstance(injection, KV):
        return f"injects a {type(injection).__name__}; return an align.KV, or None"
    student = bridge.student
    batch, tokens, _ = causal[0].shape
    for name, x, width in (
        ("keys", injection.k, student.k_width),
        ("values", injection.v, student.v_width),
    ):
        wanted = (student.layers, batch, student.heads, tokens, width // student.heads)
        if tuple(x.shape) != wanted:
            return f"injects {name} of shape {tuple(x.shape)} for {wanted}"
    covered = torch.stack([pairs.covered for pairs in causal]).any(0)
    real = injection.mask[None, :, None, :, None]
    odd, beyond = torch.stack(
        [
            ((~injection.k.isfinite()) & real).any()
            | ((~injection.v.isfinite()) & real).any(),
            (injection.mask & ~covered).any(),
        ]
    ).tolist()
    if beyond:
        return "injects into a token that no causal teacher covers"
    return "injects keys or values that are not finite" if odd else ""


def losses_problem(losses: Any) -> str:
    """What is wrong with a bridge's own losses."""
    if not isinstance(losses, Mapping):
        return f"has losses in a {type(losses).__name__}; return a dict of scalars"
    for name, value in losses.items():
        wrong = loss_problem(value)
        if wrong:
            return f"{wrong} (its own loss {name})"
        if not bool(value.isfinite()):
            return f"has the loss {name}, which is {float(value.detach())}"
    return ""


def places_problem(places: Any) -> str:
    """What is wrong with what a bridge counts for its own losses."""
    if not isinstance(places, Mapping):
        return f"counts in a {type(places).__name__}; return a dict of tuples"
    wrong: Iterator[str] = (counts_problem(numbers) for numbers in places.values())
    return next(filter(None, wrong), "")
