"""What the evaluator of speed times, against transformers' own generate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from experiments.bench.measure import Bar, paired_ratio
from student.evaluators.decoding import Decoder
from teacher.loading.models import load_model

MOST = 1.05
PROMPT, WRITTEN = 64, 32
"""Tokens."""


def bars(source: str, rounds: int, batches: tuple[int, ...]) -> list[Bar]:
    """Reading a prompt and writing after it, both with a cache, the likeliest token.

    Args:
        source: the model.
        rounds: pairs.
        batches: texts at once.
    """
    model: Any = load_model(source).model.eval()
    rows = model.get_input_embeddings().weight.shape[0]
    model.generation_config.eos_token_id = None  # as many tokens as ours
    made = []
    for batch in batches:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(rows, (batch, PROMPT), generator=generator)

        def ours(ids: torch.Tensor = ids) -> torch.Tensor:
            holder: Any = SimpleNamespace(model=model)
            decoder, following = Decoder(holder), ids
            written = []
            for _ in range(WRITTEN):
                following = decoder.read(following)
                written.append(following)
            return torch.cat([ids, *written], 1)

        def theirs(ids: torch.Tensor = ids) -> torch.Tensor:
            whole: torch.Tensor = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=WRITTEN,
                do_sample=False,
                pad_token_id=0,
            )
            return whole

        assert torch.equal(ours(), theirs()), "they write different tokens"
        ratio = paired_ratio(ours, theirs, rounds)
        made.append(Bar(f"speed / generate, batch {batch}", ratio, MOST))
    return made
