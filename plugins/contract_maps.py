"""Contracts of the kinds that carry values: time, depth, width, position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from align.calibration import CalibrationStats
from align.causality import check_causal
from align.layer_map import LayerMap, needs_sample
from align.layer_similarity import LayerSimilarity
from align.time_align import Alignment
from align.tokens import TokenBatch
from plugins.contract import Promise, first_problem, problem
from plugins.hookspecs import Aligner

_TEXTS = ("unbelievable tea", "深度 KV", "")
_STUDENT = (
    [(0, 0), (0, 2), (2, 9), (9, 12), (12, 16)],
    [(0, 0), (0, 1), (1, 2), (2, 5)],
    [(0, 0)],
)
_TEACHER = (
    [(0, 12), (12, 13), (13, 16), (16, 16)],
    [(0, 2), (2, 3), (3, 4), (4, 5), (5, 5)],
    [(0, 0)],
)


def aligner(factory: Callable[[], Aligner]) -> Iterator[Promise]:
    """An aligner is tried on Latin, Chinese and empty text with padding."""
    student, teacher = token_batch(_STUDENT), token_batch(_TEACHER)

    def shape() -> str:
        found = factory()(student, teacher)
        if not isinstance(found, Alignment):
            return f"returns {type(found).__name__}"
        wanted = (len(_TEXTS), student.ids.shape[1], teacher.ids.shape[1])
        return problem(tuple(found.shape) != wanted, f"{found.shape} for {wanted}")

    def flag() -> str:
        causal = getattr(factory(), "causal", None)
        return problem(not isinstance(causal, bool), f"causal is {causal!r}")

    def sums() -> str:
        rows = factory()(student, teacher).dense().sum(-1)
        wrong = ((rows - 1).abs() > 1e-5) & (rows != 0)
        return problem(wrong.any(), f"sums are {rows[wrong].tolist()}")

    def signs() -> str:
        weights = factory()(student, teacher).weights
        return problem((~(weights >= 0)).any(), f"weights are {weights.tolist()}")

    def text_only() -> str:
        dense = factory()(student, teacher).dense()
        into, outof = dense.sum(-1) > 0, dense.sum(-2) > 0
        return first_problem(
            problem((into & ~student.has_text).any(), "a token without text is fed"),
            problem((outof & ~teacher.has_text).any(), "a token without text feeds"),
        )

    def itself() -> str:
        same = factory()(teacher, teacher)
        return problem((teacher.has_text & ~same.covered).any(), "a token is uncovered")

    def alone() -> str:
        together = factory()(student, teacher).dense()
        for row, (s, t) in enumerate(zip(_STUDENT, _TEACHER, strict=True)):
            one = factory()(token_batch([s], [row]), token_batch([t], [row])).dense()[0]
            if not torch.allclose(one, together[row, : len(s), : len(t)], atol=1e-5):
                return f"text {row} is aligned differently in a batch"
        return ""

    def future() -> str:
        made = factory()
        if made.causal:  # type: ignore[attr-defined]
            check_causal(made(student, teacher), student, teacher)
        return ""

    yield Promise("says whether it is causal", flag)
    yield Promise("returns an Alignment of (B, T_s, T_t)", shape)
    yield Promise("weights are >= 0", signs)
    yield Promise("the weights of a student token sum to 1, or it has none", sums)
    yield Promise("special tokens and padding neither feed nor are fed", text_only)
    yield Promise("covers every token where both tokenizations are equal", itself)
    yield Promise("aligns each text by itself", alone)
    yield Promise("no future leaks if it says so", future)


def layer_map(function: Callable[..., LayerMap]) -> Iterator[Promise]:
    """A layer map is tried on shallow, equal and deep students."""
    sizes = ((24, 12), (32, 12), (12, 12), (2, 6), (1, 4), (5, 1), (1, 1))

    def mapped(teacher: int, student: int) -> LayerMap:
        if needs_sample(function):
            return function(teacher, student, layer_sample(teacher, student))
        return function(teacher, student)

    def over_sizes(find: Callable[[LayerMap, int, int], str]) -> Callable[[], str]:
        return lambda: first_problem(*(find(mapped(t, s), t, s) for t, s in sizes))

    def kind(found: LayerMap, teacher: int, student: int) -> str:
        if not isinstance(found, LayerMap):
            return f"returns {type(found).__name__} for {teacher} -> {student}"
        return problem(
            len(found) != student, f"{len(found)} entries for {teacher} -> {student}"
        )

    def inside(found: LayerMap, teacher: int, student: int) -> str:
        return problem(
            max(found.needed) >= teacher,
            f"asks for layer {max(found.needed)} of {teacher} -> {student}",
        )

    def same(found: LayerMap, teacher: int, student: int) -> str:
        again = mapped(teacher, student)
        return problem(found != again, f"two answers for {teacher} -> {student}")

    yield Promise(
        "returns a LayerMap with one entry per student layer", over_sizes(kind)
    )
    yield Promise("asks for layers that exist", over_sizes(inside))
    yield Promise("answers the same twice", over_sizes(same))


def adapter(
    function: Callable[[CalibrationStats], tuple[Tensor, Tensor]],
) -> Iterator[Promise]:
    """A calibration is tried on narrowing, widening and constant channels."""
    sizes = ((12, 8), (8, 12), (8, 8))

    def over_sizes(find: Callable[[Tensor, Tensor, Tensor], str]) -> Callable[[], str]:
        return lambda: first_problem(*(find(*_solved(function, *s)) for s in sizes))

    def shape(weight: Tensor, bias: Tensor, x: Tensor) -> str:
        layers, _, width = x.shape
        wanted = (layers, width), (layers, bias.shape[-1])
        got = tuple(weight.shape[:2]), tuple(bias.shape)
        sized = got == wanted and weight.shape[2:] == bias.shape[1:]
        return problem(not sized, f"weight {weight.shape}, bias {bias.shape}")

    def finite(weight: Tensor, bias: Tensor, x: Tensor) -> str:
        bad = not (weight.isfinite().all() and bias.isfinite().all())
        return problem(bad, f"not finite for {x.shape[-1]} -> {bias.shape[-1]}")

    def alive(weight: Tensor, bias: Tensor, x: Tensor) -> str:
        adapted = torch.baddbmm(bias.double()[:, None], x, weight.double())
        return problem(
            (adapted.var(1).sum(-1) <= 1e-8).any(), "what it makes does not vary"
        )

    yield Promise("returns weight (L, C_x, C_y) and bias (L, C_y)", over_sizes(shape))
    yield Promise("is finite, constant channels included", over_sizes(finite))
    yield Promise("keeps some of the teacher's variance", over_sizes(alive))


def rope_scaler(function: Callable[[float, int, float], float]) -> Iterator[Promise]:
    """A RoPE scaler is tried on two bases, two widths and growing scales."""
    cases = [(base, dim) for base in (10_000.0, 500_000.0) for dim in (8, 64, 128)]
    scales = (1.0, 1.5, 2.0, 4.0, 16.0)

    def identity() -> str:
        found = [(b, d, function(b, d, 1.0)) for b, d in cases]
        return first_problem(
            *(
                problem(got != b, f"base {b}, dim {d} gives {got}")
                for b, d, got in found
            )
        )

    def growing() -> str:
        for base, dim in cases:
            bases = [function(base, dim, scale) for scale in scales]
            if not all(0 < b < float("inf") for b in bases) or sorted(bases) != bases:
                return f"base {base}, dim {dim}: {bases} at scales {scales}"
        return ""

    yield Promise("scale 1 returns the base exactly", identity)
    yield Promise("bases are finite and never fall as the scale grows", growing)


def token_batch(
    spans: Sequence[Sequence[tuple[int, int]]], texts: Sequence[int] | None = None
) -> TokenBatch:
    """A padded batch of the contract's texts from spans written by hand."""
    length = max(len(row) for row in spans)
    padded = [[*row, *[(0, 0)] * (length - len(row))] for row in spans]
    mask = torch.tensor([[i < len(row) for i in range(length)] for row in spans])
    chosen = range(len(spans)) if texts is None else texts
    return TokenBatch(
        torch.arange(length).repeat(len(spans), 1),
        mask,
        torch.tensor(padded),
        tuple(_TEXTS[i] for i in chosen),
    )


def layer_sample(teacher: int, student: int) -> LayerSimilarity:
    """Features of 40 tokens; each student layer resembles some teacher layers."""
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(teacher, 40, 6, generator=generator)
    mix = torch.rand(student, teacher, generator=generator)
    sample = LayerSimilarity(40)
    sample.update(theirs, torch.einsum("st,tnc->snc", mix, theirs)[..., :4])
    return sample


def _solved(
    function: Callable[[CalibrationStats], tuple[Tensor, Tensor]], c_x: int, c_y: int
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 200, c_x, generator=generator, dtype=torch.float64)
    mix = torch.randn(2, c_x, c_y, generator=generator, dtype=torch.float64)
    y = x @ mix + 0.1 * torch.randn(2, 200, c_y, generator=generator)
    x[..., -1] = 3.0  # a constant channel on both sides
    y[..., -1] = -1.0
    stats = CalibrationStats(2, c_x, c_y)
    stats.update(x, y)
    weight, bias = function(stats)
    return weight.detach(), bias.detach(), x
