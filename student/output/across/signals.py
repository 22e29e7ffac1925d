"""Put together what routers are told of a batch, beside the student's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from align.tokens.batch import TokenBatch
from align.views import TeacherView
from fuse.signals import FORETOLD, Signals, signals_needed
from student.output.across.chunks import common_chunks


@torch.no_grad()
def signals_of(
    weigher: Any,
    batch: TokenBatch,
    views: Sequence[TeacherView],
    domains: Sequence[str] | None,
) -> tuple[Signals, ...]:
    """What a weigher asks for: one :class:`Signals`, or nothing.

    As with every alignment, where a teacher's tokens end is read off the whole text.

    Args:
        weigher: may have ``needs``, see :func:`fuse.signals.signals_needed`.
        batch: the student's tokens, (B, T).
        views: one per teacher, in the order of the weights.
        domains: of the B texts; None where nobody knows.
    """
    needs, names = signals_needed(weigher), [view.name for view in views]
    if not needs:
        return ()
    if FORETOLD not in needs:
        return (Signals(teachers=names, domains=domains),)
    speaking = [view.foretold for view in views if view.foretold is not None]
    chunks = common_chunks([batch, *(said.tokens for said in speaking)])
    last, device = chunks.sides[0].last, batch.ids.device
    ends = torch.zeros(batch.ids.numel(), dtype=torch.bool, device=device)
    ends[last] = True
    foretold = torch.zeros(batch.ids.numel(), len(views), device=device)
    sides = iter(chunks.sides[1:])
    for m, view in enumerate(views):
        said = view.foretold
        nats = torch.nan if said is None else next(sides).sum(said.log_probs)
        foretold[last, m] = nats
    shape = batch.ids.shape
    signals = Signals(
        teachers=names,
        foretold=foretold.view(*shape, len(views)),
        ends=ends.view(shape),
        domains=domains,
    )
    return (signals,)
