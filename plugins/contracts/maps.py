"""Contracts of the kinds that carry values through depth, width and position."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from align.calibration import CalibrationStats
from align.layer_map import LayerMap, needs_sample
from align.layer_similarity import LayerSimilarity
from plugins.answers import adapter_problem, base_problem, layer_map_problem
from plugins.promise import Promise, first_problem, problem
from plugins.untouched import Untouched

CALLS = 120
"""How often one function is asked, since some faults begin late."""


def layer_map(function: Callable[..., LayerMap]) -> Iterator[Promise]:
    """A layer map is tried on shallow, equal and deep students."""
    sizes = ((24, 12), (32, 12), (12, 12), (2, 6), (1, 4), (5, 1), (1, 1))

    def mapped(teacher: int, student: int) -> LayerMap:
        if needs_sample(function):
            return function(teacher, student, layer_sample(teacher, student))
        return function(teacher, student)

    def over_sizes(find: Callable[[LayerMap, int, int], str]) -> Callable[[], str]:
        return lambda: first_problem(*(find(mapped(t, s), t, s) for t, s in sizes))

    def kind(answer: LayerMap, teacher: int, student: int) -> str:
        if not isinstance(answer, LayerMap):
            return f"returns {type(answer).__name__} for {teacher} -> {student}"
        return problem(
            len(answer) != student, f"{len(answer)} entries for {teacher} -> {student}"
        )

    def inside(answer: LayerMap, teacher: int, student: int) -> str:
        return problem(
            max(answer.needed) >= teacher,
            f"asks for layer {max(answer.needed)} of {teacher} -> {student}",
        )

    def often() -> str:
        first: dict[tuple[int, int], LayerMap] = {}
        looks = needs_sample(function)
        samples = {size: (layer_sample(*size),) if looks else () for size in sizes}
        for call in range(CALLS):
            size = sizes[call % len(sizes)]
            before = Untouched({"the sample": samples[size]}, whole=True)
            answer = function(*size, *samples[size])
            wrong = layer_map_problem(answer, *size) or before.problem()
            if not wrong and first.setdefault(size, answer) != answer:
                wrong = "returns another map for the same sizes"
            if wrong:
                return f"{wrong} (call {call + 1}, {size[0]} -> {size[1]})"
        return ""

    def same(answer: LayerMap, teacher: int, student: int) -> str:
        again = mapped(teacher, student)
        return problem(answer != again, f"two answers for {teacher} -> {student}")

    yield Promise(
        "returns a LayerMap with one entry per student layer", over_sizes(kind)
    )
    yield Promise("asks for layers that exist", over_sizes(inside))
    yield Promise("answers the same twice", over_sizes(same))
    yield Promise("keeps all this call after call", often)


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

    def often() -> str:
        samples = [_sample(*size)[0] for size in sizes]
        first: dict[int, Tensor] = {}
        for call in range(CALLS // 3):
            which = call % len(samples)
            before = Untouched(samples[which], whole=True)
            answer = function(samples[which])
            wrong = adapter_problem(answer, samples[which]) or before.problem()
            if not wrong:
                same = first.setdefault(which, answer[0].detach())
                if not torch.allclose(same, answer[0].to(same), rtol=1e-3):
                    wrong = "returns another map for the same statistics"
            if wrong:
                return f"{wrong} (call {call + 1})"
        return ""

    yield Promise("returns weight (L, C_x, C_y) and bias (L, C_y)", over_sizes(shape))
    yield Promise("is finite, constant channels included", over_sizes(finite))
    yield Promise("keeps some of the teacher's variance", over_sizes(alive))

    def follows() -> str:
        for size in sizes:
            first, second = (function(_sample(*size, seed=seed)[0]) for seed in (0, 1))
            if all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
                return f"one map for different statistics of {size[0]} -> {size[1]}"
        return ""

    yield Promise("keeps all this call after call, its input as it was", often)
    yield Promise("answers the statistics that it is given", follows)


def rope_scaler(function: Callable[[float, int, float], float]) -> Iterator[Promise]:
    """A RoPE scaler is tried on two bases, two widths and growing scales."""
    cases = [(base, dim) for base in (10_000.0, 500_000.0) for dim in (8, 64, 128)]
    scales = (1.0, 1.5, 2.0, 4.0, 16.0)

    def identity() -> str:
        bases = [(b, d, function(b, d, 1.0)) for b, d in cases]
        return first_problem(
            *(
                problem(got != b, f"base {b}, dim {d} gives {got}")
                for b, d, got in bases
            )
        )

    def growing() -> str:
        for base, dim in cases:
            bases = [function(base, dim, scale) for scale in scales]
            if not all(0 < b < float("inf") for b in bases) or sorted(bases) != bases:
                return f"base {base}, dim {dim}: {bases} at scales {scales}"
            for scale, scaled in zip(scales, bases, strict=True):
                again = function(base, dim, scale)
                if again != scaled:
                    return f"{scaled} at scale {scale}, but {again} after longer texts"
        return ""

    def often() -> str:
        first: dict[tuple[float, int, float], float] = {}
        for call in range(CALLS):
            base, dim = cases[call % len(cases)]
            scale = scales[call % len(scales)]
            scaled = function(base, dim, scale)
            wrong = base_problem(scaled, base, scale)
            if not wrong and first.setdefault((base, dim, scale), scaled) != scaled:
                wrong = "returns another base for the same context"
            if wrong:
                return f"{wrong} (call {call + 1}, base {base}, dim {dim})"
        return ""

    yield Promise("scale 1 returns the base exactly", identity)
    yield Promise("bases are finite and never fall as the scale grows", growing)
    yield Promise("is a number, the same one call after call", often)


def layer_sample(teacher: int, student: int) -> LayerSimilarity:
    """Features of 40 tokens; each student layer resembles some teacher layers."""
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(teacher, 40, 6, generator=generator)
    mix = torch.rand(student, teacher, generator=generator)
    sample = LayerSimilarity(40)
    sample.update(theirs, torch.einsum("st,tnc->snc", mix, theirs)[..., :4])
    sample.importance = torch.rand(teacher, generator=generator, dtype=torch.float64)
    return sample


def _solved(
    function: Callable[[CalibrationStats], tuple[Tensor, Tensor]], c_x: int, c_y: int
) -> tuple[Tensor, Tensor, Tensor]:
    stats, x = _sample(c_x, c_y)
    weight, bias = function(stats)
    return weight.detach(), bias.detach(), x


def _sample(c_x: int, c_y: int, seed: int = 0) -> tuple[CalibrationStats, Tensor]:
    """Statistics of 200 pairs in two layers, and the teacher's side of them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 200, c_x, generator=generator, dtype=torch.float64)
    mix = torch.randn(2, c_x, c_y, generator=generator, dtype=torch.float64)
    y = x @ mix + 0.1 * torch.randn(2, 200, c_y, generator=generator)
    x[..., -1] = 3.0  # a constant channel on both sides
    y[..., -1] = -1.0
    stats = CalibrationStats(2, c_x, c_y)
    stats.update(x, y)
    return stats, x
