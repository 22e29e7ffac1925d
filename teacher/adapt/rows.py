"""The rows of an embedding or a head in another vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Cut = Sequence[int]


@torch.no_grad()
def new_rows(rows: Tensor, cuts: Sequence[Cut]) -> Tensor:
    """Make a row for each new id from the rows of the old ids that stand for it.

    Args:
        rows: (V, C) or (V,) float, by old id.
        cuts: W old ids each, in the order of the text; see
            :class:`teacher.adapt.cut.Cuts`.

    Returns:
        (W, C) or (W,) of the dtype and on the device of ``rows``: the row itself, bit
        for bit, where one stands for a piece; their mean, taken in float32, where
        several do; the mean of all rows where none does.

    Source:
        The mean of a piece's old subwords: Gee et al. 2022, "Fast vocabulary transfer"
        (arXiv 2402.09977). For heads, too: the first subword's row, which is what the
        model would say next, cost 8 to 16 % in bits (docs/evidence.md).
    """
    wide = rows if rows.dim() == 2 else rows[:, None]
    first = torch.tensor([cut[0] if cut else 0 for cut in cuts], device=rows.device)
    out = wide[first]
    several = [n for n, cut in enumerate(cuts) if len(cut) > 1]
    if several:
        flat = [id_ for n in several for id_ in cuts[n]]
        lengths = torch.tensor([len(cuts[n]) for n in several])
        used, place = torch.tensor(flat, device=rows.device).unique(return_inverse=True)
        means = functional.embedding_bag(
            place,
            wide[used].float(),
            (lengths.cumsum(0) - lengths).to(rows.device),
            mode="mean",
        )
        out[several] = means.to(rows.dtype)
    none = [n for n, cut in enumerate(cuts) if not cut]
    if none:
        out[none] = wide.float().mean(0).to(rows.dtype)
    return out if rows.dim() == 2 else out[:, 0]
