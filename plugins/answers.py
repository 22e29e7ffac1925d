"""What is wrong with one answer of a plugin; contracts and running guards ask alike.

Each function returns a sentence that goes on after the plugin's name, or an empty
string. They cost a few small operations and at most one wait for the device, so that a
run can afford them at every call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from align.calibration import CalibrationStats
from align.layer_map import LayerMap
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from student.balance import Balanced

SUM = 1e-3
"""How far weights in float32 may be from summing to 1."""
SUM_NARROW = 2e-2
"""The same where they come in a narrower dtype."""

_DTYPES = {
    "rows": torch.int64,
    "cols": torch.int64,
    "weights": torch.float32,
    "shared": torch.float32,
}


def alignment_problem(alignment: Any, student: TokenBatch, teacher: TokenBatch) -> str:
    """What is wrong with an aligner's answer.

    Args:
        alignment: what it returned.
        student: (B, T_s) tokens it was given.
        teacher: (B, T_t) tokens it was given.
    """
    if type(alignment) is not Alignment:
        return f"returns {type(alignment).__name__}; return an align.Alignment"
    batch, tokens = student.ids.shape
    wanted = (batch, tokens, teacher.ids.shape[1])
    if tuple(alignment.shape) != wanted:
        return (
            f"returns an Alignment of {tuple(alignment.shape)} for tokens of {wanted}"
        )
    for name, dtype in _DTYPES.items():
        value = getattr(alignment, name)
        if name == "shared" and value is None:
            continue
        wrong = _tensor_problem(value, dtype, student.ids.device)
        if wrong:
            return f"returns {name} that {wrong}"
    try:
        alignment.__post_init__()
    except ValueError as error:
        return f"returns a list of pairs that is none: {error}"
    if not len(alignment.rows):
        return ""
    rows, cols, weights = alignment.rows, alignment.cols, alignment.weights
    sums = weights.new_zeros(batch * tokens).index_add_(0, rows, weights)[rows]
    fed, feeding = student.has_text.flatten()[rows], teacher.has_text.flatten()[cols]
    shared = weights * 0 if alignment.shared is None else alignment.shared
    held = torch.minimum(_widths(student)[rows], _widths(teacher)[cols])
    sentences = (
        (~weights.isfinite(), "returns weights that are not finite"),
        (weights < 0, "returns weights that are negative"),
        ((sums - 1).abs() > SUM, "returns weights of a token that do not sum to 1"),
        (~fed, "feeds a token that holds no text"),
        (~feeding, "feeds from a token that holds no text"),
        (
            rows // tokens != cols // wanted[2],
            "feeds a text from another text of the batch",
        ),
        (
            ~((shared >= 0) & (shared <= held)),
            "returns shared characters that two tokens cannot share",
        ),
    )
    return _first(sentences)


def weights_problem(answer: Any, query: Tensor, teachers: int) -> str:
    """What is wrong with a router's answer.

    Args:
        answer: what it returned.
        query: (..., C) float, what it was given.
        teachers: M.
    """
    if not isinstance(answer, Tensor):
        return f"returns {type(answer).__name__}; return a tensor of weights"
    wanted = (*query.shape[:-1], teachers)
    if tuple(answer.shape) != wanted:
        return f"returns weights of shape {tuple(answer.shape)} for {wanted}"
    if not answer.is_floating_point():
        return f"returns weights of {_plain(answer.dtype)}; return floats"
    if answer.device != query.device:
        return f"returns weights on {answer.device} for a query on {query.device}"
    weights = answer.detach().float()
    far = SUM if answer.dtype in (torch.float32, torch.float64) else SUM_NARROW
    sums = weights.sum(-1)
    sentences = (
        (~weights.isfinite(), "returns weights that are not finite"),
        (weights < 0, "returns weights that are negative"),
        ((sums - 1).abs() > far, "returns weights that do not sum to 1"),
    )
    return _first(sentences)


def beforehand_problem(answer: Any, texts: int, teachers: int) -> str:
    """What is wrong with the weights of so many texts that nobody has read.

    Args:
        answer: what a router's ``beforehand`` returned.
        texts: B.
        teachers: M.
    """
    device = answer.device if isinstance(answer, Tensor) else None
    return weights_problem(answer, torch.empty(texts, 1, device=device), teachers)


def layer_map_problem(layer_map: Any, teacher: int, student: int) -> str:
    """What is wrong with a layer map for so many layers of teacher and student."""
    if type(layer_map) is not LayerMap:
        return f"returns {type(layer_map).__name__}; return an align.LayerMap"
    if len(layer_map) != student:
        return f"returns {len(layer_map)} entries for {student} student layers"
    for index, feeds in enumerate(layer_map):
        for layer, weight in feeds:
            if not isinstance(layer, int) or not is_real(weight):
                return (
                    f"feeds student layer {index} from {(layer, weight)!r}; give pairs "
                    "of a layer and its weight"
                )
            if not math.isfinite(weight):
                return f"feeds student layer {index} with weight {weight}"
    if max(layer_map.needed) >= teacher:
        return (
            f"asks for layer {max(layer_map.needed)}, but the teacher has layers "
            f"0..{teacher - 1}"
        )
    return ""


def adapter_problem(adapter: Any, stats: CalibrationStats) -> str:
    """What is wrong with an adapter's answer to these statistics."""
    pair = isinstance(adapter, tuple) and len(adapter) == 2
    if not pair or not all(isinstance(x, Tensor) for x in adapter):
        return f"returns {kinds_of(adapter)}; return the tensors weight and bias"
    layers = stats.mean_x.shape[0]
    wanted = ((layers, stats.dim_x, stats.dim_y), (layers, stats.dim_y))
    for name, x, shape in zip(("weight", "bias"), adapter, wanted, strict=True):
        if tuple(x.shape) != shape:
            return f"returns a {name} of shape {tuple(x.shape)} for {shape}"
        if not x.is_floating_point():
            return f"returns a {name} of {_plain(x.dtype)}; return floats"
        if not bool(x.isfinite().all()):
            return f"returns a {name} that is not finite"
    return ""


def base_problem(scaled: Any, base: float, scale: float) -> str:
    """What is wrong with a RoPE scaler's answer for a base and a scale."""
    if not is_real(scaled):
        return f"returns {kinds_of(scaled)}; return the new base as a float"
    if not math.isfinite(scaled) or scaled <= 0:
        return f"returns the base {scaled}; it is finite and > 0"
    if scale == 1 and scaled != base:
        return f"returns {scaled} at scale 1; return the base {base} itself"
    if scale > 1 and scaled < base:
        return f"returns {scaled} at scale {scale}, less than the base {base}"
    return ""


def balanced_problem(balanced: Any, terms: int) -> str:
    """What is wrong with a balancer's answer.

    Args:
        balanced: what it returned.
        terms: N.
    """
    if not isinstance(balanced, Balanced):
        return f"returns {kinds_of(balanced)}; return a Balanced"
    weights, loss = balanced.weights, balanced.loss
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        return f"returns weights as {kinds_of(weights)}; return a tensor of floats"
    if weights.shape != (terms,):
        return f"returns weights of shape {tuple(weights.shape)}; return ({terms},)"
    value = weights.detach()
    if not bool((value.isfinite() & (value >= 0)).all()):
        return f"returns weights {value.tolist()}; they are finite and >= 0"
    return "" if loss is None else loss_problem(loss)


def selected_problem(weights: Any, known: Tensor) -> str:
    """What is wrong with a selector's answer.

    Args:
        weights: what it returned.
        known: (B, T, M), the places and teachers that it was asked of.
    """
    if not isinstance(weights, Tensor):
        return f"returns {kinds_of(weights)}; return a tensor of weights"
    if weights.shape not in (known.shape, known.shape[:2]):
        return (
            f"returns weights of shape {tuple(weights.shape)}; return "
            f"{tuple(known.shape[:2])}, or {tuple(known.shape)} by teacher"
        )
    if not weights.is_floating_point():
        return f"returns weights of {_plain(weights.dtype)}; return floats"
    if weights.device != known.device:
        return f"returns weights on {weights.device} for places on {known.device}"
    value = weights.detach()
    sentences = (
        (~value.isfinite(), "returns weights that are not finite"),
        (value < 0, "returns weights that are negative"),
    )
    return _first(sentences)


def schedule_problem(number: Any, tokens: int | None = None, above: bool = True) -> str:
    """What is wrong with what a schedule gives.

    Args:
        number: what the rule returned.
        tokens: N of the distributions it is for; None where that is not known.
        above: whether it stands between two numbers > 0, and so is > 0.
    """
    least = "> 0" if above else ">= 0"
    if not isinstance(number, Tensor):
        if not is_real(number):
            return (
                f"returns {kinds_of(number)}; return a number {least}, or one a token"
            )
        good = math.isfinite(number) and (number > 0 or (number == 0 and not above))
        return "" if good else f"returns {number}; it is to be finite and {least}"
    if number.is_complex() or number.dtype == torch.bool:
        return f"returns a tensor of {_plain(number.dtype)}; return floats"
    sized = number.dim() == 0 or (
        number.dim() == 1 and (tokens is None or len(number) == tokens)
    )
    if not sized:
        given = "(N,)" if tokens is None else f"({tokens},)"
        return f"returns shape {tuple(number.shape)}; return one number, or {given}"
    enough = number > 0 if above else number >= 0
    if not bool((number.isfinite() & enough).all()):
        return f"returns numbers that are not finite and {least}"
    return ""


def chosen_problem(chosen: Any, candidates: int) -> str:
    """What is wrong with the candidates that a way of writing keeps.

    Args:
        chosen: what it returned.
        candidates: how many it was given.
    """
    if not isinstance(chosen, Sequence) or not all(type(x) is int for x in chosen):
        return f"keeps {chosen!r:.60}; return a list of places"
    if not chosen or len(set(chosen)) < len(chosen):
        return f"keeps {list(chosen)}; keep at least one, and none twice"
    outside = [place for place in chosen if not 0 <= place < candidates]
    return f"keeps place {outside[0]} of {candidates}" if outside else ""


def numbers_problem(numbers: Any, asked: int, texts: int) -> str:
    """What is wrong with the texts that a curriculum names.

    Args:
        numbers: what it returned.
        asked: how many texts it was asked for.
        texts: N that there are.
    """
    if not isinstance(numbers, Sequence) or isinstance(numbers, str):
        return f"returns {kinds_of(numbers)}; return a list of numbers of texts"
    bad = [x for x in numbers if type(x) is not int]
    if bad:
        return f"names text {bad[0]!r:.40}; return ints"
    if len(numbers) != asked:
        return f"names {len(numbers)} texts where {asked} are asked for"
    outside = [number for number in numbers if not 0 <= number < texts]
    return f"names text {outside[0]} of {texts}" if outside else ""


def distance_problem(apart: Any, weight: Tensor, per_token: bool) -> str:
    """What is wrong with a distance's answer.

    Args:
        apart: what it returned.
        weight: (L, B, T), what it was given.
        per_token: what it says of itself.
    """
    wanted = tuple(weight.shape) if per_token else (len(weight),)
    return _features_problem(apart, wanted)


def projection_problem(projected: Any, given: Tensor, width: int) -> str:
    """What is wrong with a projector's answer.

    Args:
        projected: what it returned.
        given: (L, B, T, C), what it was given.
        width: what it is to make of C.
    """
    return _features_problem(projected, (*given.shape[:-1], width))


def _features_problem(answer: Any, wanted: tuple[int, ...]) -> str:
    if not isinstance(answer, Tensor):
        return f"returns {kinds_of(answer)}; return a tensor {wanted}"
    if tuple(answer.shape) != wanted:
        return f"returns shape {tuple(answer.shape)}; return {wanted}"
    if not answer.is_floating_point():
        return f"returns a tensor of {_plain(answer.dtype)}; return floats"
    if not bool(answer.detach().isfinite().all()):
        return "returns values that are not finite"
    return ""


def loss_problem(loss: Any) -> str:
    """What is wrong with the type of an objective's answer."""
    if not isinstance(loss, Tensor):
        return f"returns {kinds_of(loss)}; return a tensor of one number"
    if loss.shape != ():
        return f"returns shape {tuple(loss.shape)}; return one number, ()"
    if not loss.is_floating_point():
        return f"returns a tensor of {_plain(loss.dtype)}; return a float"
    return ""


def counts_problem(counts: Any) -> str:
    """What is wrong with what an objective counts."""
    if not isinstance(counts, Sequence) or isinstance(counts, str) or not len(counts):
        return f"counts {kinds_of(counts)}; return numbers, one or more"
    bad = [x for x in counts if not is_real(x) or not math.isfinite(x) or x < 0]
    return f"counts {bad[0]!r}; return finite numbers >= 0" if bad else ""


def _widths(batch: TokenBatch) -> Tensor:
    """(B * T,) int64 characters that each token holds."""
    return (batch.spans[..., 1] - batch.spans[..., 0]).flatten()


def _tensor_problem(value: Any, dtype: torch.dtype, device: torch.device) -> str:
    if not isinstance(value, Tensor):
        return f"are {type(value).__name__}; return a tensor"
    if value.dtype != dtype:
        return f"are {_plain(value.dtype)}; return {_plain(dtype)}"
    if value.device != device:
        return f"are on {value.device} for tokens on {device}"
    return "carry a gradient; detach them" if value.requires_grad else ""


def _first(sentences: Sequence[tuple[Tensor, str]]) -> str:
    """The first sentence whose tensor has a True; the device is waited for once."""
    broken = torch.stack([flags.any() for flags, _ in sentences]).tolist()
    return next((text for bad, (_, text) in zip(broken, sentences) if bad), "")  # noqa: B905


def is_real(value: Any) -> bool:
    """Whether it is a number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kinds_of(answer: Any) -> str:
    """What an answer is, by the names of its types."""
    if isinstance(answer, tuple | list):
        inside = ", ".join(type(x).__name__ for x in answer[:3])
        return f"a {type(answer).__name__} of {inside or 'nothing'}"
    if isinstance(answer, str):
        return repr(answer[:40])
    return type(answer).__name__
