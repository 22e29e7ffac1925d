"""What a step of the student alone costs compiled, and what compiling costs."""

from __future__ import annotations

import time
from typing import Any

import torch

from experiments.bench.measure import Bar, paired_ratio
from experiments.sources.compiled import compile_blocks
from teacher.loading.models import load_model

TEXTS, TOKENS = 4, 128


def measure_compiled(scale: str, rounds: int) -> list[Bar]:
    """A forward and backward of ``train.compile`` against one without.

    Args:
        scale: of the zoo, whose student it is.
        rounds: pairs.
    """
    model = "zoo:student" if scale == "default" else f"zoo:{scale}/student"
    plain, compiled = (_Step(load_model(model, role="student").model) for _ in range(2))
    parts = compile_blocks(compiled.model)
    begun = time.perf_counter()
    compiled()
    print(
        f"{model}: the first step of {len(parts)} compiled parts took "
        f"{time.perf_counter() - begun:.0f} s of this machine's time"
    )
    name = f"student of {TEXTS} x {TOKENS} tokens, compiled / as it is"
    return [Bar(name, paired_ratio(compiled, plain, rounds), 1)]


class _Step:
    """A step without an optimiser."""

    def __init__(self, model: Any) -> None:
        self.model = model
        torch.manual_seed(0)
        self._ids = torch.randint(3, model.config.vocab_size, (TEXTS, TOKENS))

    def __call__(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self.model(input_ids=self._ids, labels=self._ids).loss.backward()
