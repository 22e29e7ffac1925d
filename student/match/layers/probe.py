"""Which layers tell the next token best, of the calibration sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from align.calibration import METHODS, CalibrationStats, r_squared
from student.objective import Sides, StepContext

CLASSES = 64
"""Next tokens that a probe tells apart, the sample's most frequent."""

Look = Callable[[StepContext], Iterable[tuple[Sides, Tensor, Tensor]]]
"""From a context to each teacher's sides, its features (L, N, C) float at the tokens
that are compared, and where these stand, (B, T) bool."""


@torch.no_grad()
def told_best(sample: Iterable[StepContext], look: Look) -> Tensor | None:
    """How well each layer tells the next token, a mean over teachers.

    A linear probe is fitted on every other token of the sample, and judged on the rest.

    Args:
        sample: read twice.
        look: see :data:`Look`.

    Returns:
        (L,) float64, the share of variance that is explained of an indicator of each of
        the most frequent next tokens; None where there is nothing to fit.

    Source:
        Alain and Bengio 2016, Understanding intermediate layers using linear classifier
        probes (arXiv 1610.01644). It stands for the information that a layer holds of
        what is to be predicted, by which recipes weigh layers. Departures: ridge
        regression on indicators in place of a classifier, which has a closed form.
    """
    counts: Counter[int] = Counter()
    for ctx in sample:
        counts.update(ctx.batch.ids[:, 1:][ctx.batch.predicted[:, 1:]].tolist())
    classes = torch.tensor([token for token, _ in counts.most_common(CLASSES)])
    halves: dict[str, tuple[CalibrationStats, CalibrationStats]] = {}
    for ctx in sample:
        predicted, ids = ctx.batch.predicted, ctx.batch.ids
        before = predicted.roll(-1, 1)
        before[:, -1:] = False
        following = ids.roll(-1, 1)
        for sides, features, known in look(ctx):
            kept = before[known]
            x, after = features[:, kept], following[known][kept]
            labels = (after[:, None] == classes.to(after.device)).float()
            y = labels.expand(len(x), -1, -1)
            if sides.name not in halves:
                sizes = len(x), x.shape[2], len(classes), str(x.device)
                halves[sides.name] = CalibrationStats(*sizes), CalibrationStats(*sizes)
            for half, stats in enumerate(halves[sides.name]):
                stats.update(x[:, half::2].float(), y[:, half::2])
    scores = [
        r_squared(judged, *METHODS["ridge"](fitted)).cpu()
        for fitted, judged in halves.values()
        if fitted.n and judged.n
    ]
    return torch.stack(scores).nan_to_num(0.0).mean(0) if scores else None
