"""What selectors kept since the last report, in numbers and in an example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.tokens.kinds import KINDS, kinds_of_tokens
from student.places import Selected
from student.select.passes import Made

TOKENS = 60
"""Of a text that is shown."""


@dataclass(kw_only=True, slots=True)
class Kept:
    """Sums of what each selector's weights were, over the places of this process."""

    _domains: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By selector and domain: weights, places, and places of which something is left,
    (3,) float64."""
    _last: tuple[Selected, TokenBatch, Sequence[TextSample]] | None = None
    """The last pass, of which more is written."""

    def update(self, selected: Selected | None, made: Made) -> None:
        """Add one pass.

        Args:
            selected: by what its places are multiplied; None: nothing selects.
            made: of which texts and tokens.
        """
        if selected is None or selected.counted is None:
            return
        samples = made.samples
        self._last = selected, made.batch, samples
        for name, sums in _sums(selected):
            domains = self._domains.setdefault(name, {})
            for row, sample in enumerate(samples):
                before = domains.get(sample.domain, torch.zeros(3).double())
                domains[sample.domain] = before + sums[:, row].sum(1)

    def line(self, step: int) -> dict[str, Any]:
        """What is written after so many steps.

        Of each selector the share of places that it leaves anything of, and its mean
        weight by domain and, of the last pass, by kind of token; and a text with the
        weight of each of its places, None where nothing is learned anyway. Empty where
        nothing selected.
        """
        if self._last is None:
            return {}
        kinds, selectors = _by_kind(*self._last), {}
        for name, domains in self._domains.items():
            _, places, left = torch.stack(list(domains.values())).sum(0).tolist()
            selectors[name] = {
                "kept": left / places if places else 0.0,
                "domains": _means(domains),
                "kinds": _means(kinds[name]),
            }
        example = _example(*self._last)
        return {"step": step, "selectors": selectors, "example": example}


def _sums(selected: Selected) -> Iterator[tuple[str, Tensor]]:
    """(3, B, T) float64 on the CPU of each selector: weights, places, and places of
    which something is left."""
    assert selected.counted is not None
    for name, weight in selected.weights.items():
        sums = torch.stack([weight, torch.ones_like(weight), (weight > 0).float()])
        yield name, (sums * selected.counted).double().cpu()


def _by_kind(
    selected: Selected, batch: TokenBatch, samples: Sequence[TextSample]
) -> dict[str, dict[str, Tensor]]:
    """(3,) of each selector and kind of token."""
    kinds = [
        kinds_of_tokens(sample.text, spans)
        for sample, spans in zip(samples, batch.spans.tolist(), strict=True)
    ]
    number = torch.tensor(
        [[KINDS.index(kind) if kind else -1 for kind in row] for row in kinds]
    )
    return {
        name: {kind: sums[:, number == at].sum(1) for at, kind in enumerate(KINDS)}
        for name, sums in _sums(selected)
    }


def _means(sums: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: float(weight / places)
        for name, (weight, places, _) in sorted(sums.items())
        if places
    }


def _example(
    selected: Selected, batch: TokenBatch, samples: Sequence[TextSample]
) -> dict[str, Any]:
    """The first text of a pass, cut."""
    sample, spans = samples[0], batch.spans[0, :TOKENS].tolist()
    held = [index for index, (start, end) in enumerate(spans) if end > start]
    assert selected.counted is not None
    counted = selected.counted[0]
    return {
        "text": sample.id,
        "domain": sample.domain,
        "pieces": [sample.text[slice(*spans[index])] for index in held],
        "weights": {
            name: [
                round(float(weight[0, i]), 3) if bool(counted[i]) else None
                for i in held
            ]
            for name, weight in selected.weights.items()
        },
    }
