"""How fast a model reads and writes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import ClassVar

import torch

from align.errors import InputError, out_of_memory
from student.evaluators.base import EvalContext, Measured, Metric
from student.evaluators.decoding import Decoder, bytes_of, drawn_prompt

MIB = 2**20
FEWEST = 2
"""Repetitions that are made however long one takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Seconds of reading a prompt and of writing after it, warmed up, by batch size.

    Prompts are tokens drawn at random, all of one length. What is written is the
    likeliest token every time, by the model's own forward pass and cache, without the
    bookkeeping of ``generate``.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "prefill": Metric("tokens/s", "higher"),
        "prefill_time": Metric("ms", "lower"),
        "prefill_spread": Metric("%", "lower"),
        "decode": Metric("tokens/s", "higher"),
        "decode_time": Metric("ms/token", "lower"),
        "decode_spread": Metric("%", "lower"),
        "cache": Metric("MiB", "lower"),
        "peak_memory": Metric("MiB", "lower"),
    }
    of_teachers: ClassVar[bool] = False

    batches: list[int] | None = None
    """Texts at once; none: 1, 32 and 128."""
    prompt_tokens: int = 64
    """Tokens of a prompt."""
    new_tokens: int = 16
    """Tokens that are written after it."""
    warmups: int = 1
    """Repetitions that are not timed."""
    repeats: int = 5
    """Repetitions that are timed, 2 or more; their median counts, and the spread is the
    distance of their quartiles as a share of it."""
    seconds: float = 20.0
    """A batch size that has taken so long is repeated no more."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            InputError: a number below its least.
        """
        least = {"prompt_tokens": 1, "new_tokens": 1, "warmups": 0, "repeats": FEWEST}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InputError(
                    f"{name} is {getattr(self, name)}; give {lowest} or more"
                )
        if not self.sizes or min(self.sizes) < 1:
            raise InputError(f"batches is {self.batches}; give numbers of texts, >= 1")

    @property
    def sizes(self) -> list[int]:
        """Texts at once."""
        return [1, 32, 128] if self.batches is None else self.batches

    def __call__(self, ctx: EvalContext) -> Measured:
        """By batch size."""
        if ctx.subject.writes_targets:
            return ctx.subject.not_asked("speed")
        values: dict[str, dict[str, float]] = {name: {} for name in self.metrics}
        notes: list[str] = []
        for size in ctx.progress(
            self.sizes, len(self.sizes), f"timing {ctx.subject.name}"
        ):
            part = f"batch {size}"
            try:
                figures = self._timed(ctx, size)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                notes.append(f"{ctx.subject.name}: {part} does not fit in memory")
                continue
            for name, value in figures.items():
                values[name][part] = value
        if ctx.device.type != "cuda":
            notes.append(
                f"{ctx.subject.name}: peak_memory is known on a GPU alone; memory of "
                "the weights is the metric of size, that of keys and values is cache"
            )
        return Measured({n: parts for n, parts in values.items() if parts}, notes)

    def _timed(self, ctx: EvalContext, size: int) -> dict[str, float]:
        ids = drawn_prompt(ctx, size, self.prompt_tokens, self.new_tokens)
        gpu = ctx.device.type == "cuda"
        if gpu:
            torch.cuda.reset_peak_memory_stats(ctx.device)
        prefill: list[float] = []
        decode: list[float] = []
        held, began = 0, time.perf_counter()
        for turn in range(self.warmups + self.repeats):
            decoder = Decoder(ctx.subject)
            start = _now(ctx.device)
            following = decoder.read(ids)
            read = _now(ctx.device)
            for _ in range(self.new_tokens):
                following = decoder.read(following)
            done = _now(ctx.device)
            held = bytes_of(decoder.cache)
            if turn >= self.warmups:
                prefill.append(read - start)
                decode.append((done - read) / self.new_tokens)
            late = time.perf_counter() - began > self.seconds
            if late and len(prefill) >= FEWEST:
                break
        figures = {
            "prefill": size * self.prompt_tokens / median(prefill),
            "prefill_time": 1e3 * median(prefill),
            "prefill_spread": spread(prefill),
            "decode": size / median(decode),
            "decode_time": 1e3 * median(decode),
            "decode_spread": spread(decode),
            "cache": held / MIB,
        }
        if gpu:
            figures["peak_memory"] = torch.cuda.max_memory_allocated(ctx.device) / MIB
        return figures


def spread(times: list[float]) -> float:
    """Distance of the quartiles as a share of the median, in %."""
    low, middle, high = quantiles(times, n=4, method="inclusive")
    return 100 * (high - low) / middle


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
