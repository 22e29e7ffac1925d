"""The maker ``low_rank``: every layer's matrices by their largest singular values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from align.errors import InputError
from teacher.making.base import Made, Sample
from teacher.making.rebuilt import check_plain, rebuilt
from teacher.making.stack import depth_of, layer_stack


class LowRank:
    """Replace matrices inside the layers by nearest ones of lower rank.

    They stay whole matrices, so that plain transformers loads them: the student is no
    smaller, and says what one of factors would say. With ``share`` 1 nothing changes.

    Source:
        Eckart and Young (1936): of all matrices of rank r the truncated singular value
        decomposition is nearest, at a distance of the root of the sum of the squares of
        the values left out.
    """

    needs_sample = False

    def __init__(self, *, share: float = 0.95) -> None:
        """Say how much is kept.

        Args:
            share: of a matrix's energy, the sum of the squares of its singular values;
                above 0, up to 1. As few values as have that much.

        Raises:
            InputError: it is no such share.
        """
        if not 0 < share <= 1:
            raise InputError(f"share is {share}; give one above 0, up to 1")
        self.share = share

    def __call__(self, model: nn.Module, sample: Sample | None = None) -> Made:
        """See :meth:`teacher.making.base.StudentMaker.__call__`."""
        check_plain(model)
        name, _ = layer_stack(model)
        state = {k: v.detach() for k, v in model.state_dict().items()}
        whole = factors = 0
        for key, weight in state.items():
            if key.startswith(f"{name}.") and weight.dim() == 2:
                state[key], rank = lower_rank(weight, self.share)
                whole += weight.numel()
                factors += min(rank * sum(weight.shape), weight.numel())
        return Made(
            model=rebuilt(model, {}, state),
            layers=tuple(range(depth_of(model))),
            done=f"{self.share:g} of the energy of its layers' matrices kept, whose "
            f"factors would take {factors / max(whole, 1):.0%} of their weights",
        )


def lower_rank(weight: Tensor, share: float) -> tuple[Tensor, int]:
    """The nearest matrix of the lowest rank that has a share of the energy.

    Args:
        weight: (M, N).
        share: of the sum of its squares.

    Returns:
        The matrix, in the type of ``weight``, and its rank; itself where nothing is
        left out.
    """
    u, values, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    energy = values.square().cumsum(0)
    rank = int((energy < share * energy[-1]).sum()) + 1
    if share == 1 or rank >= len(values):
        return weight, len(values)
    near = (u[:, :rank] * values[:rank]) @ vt[:rank]
    return near.to(weight.dtype), rank
