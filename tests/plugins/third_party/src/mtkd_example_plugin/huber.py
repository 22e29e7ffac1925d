"""A key distance that outliers cannot dominate."""

from torch import Tensor
from torch.nn.functional import huber_loss

from student.objective import StepContext


class HuberKeys:
    """Squared near the target, absolute far from it."""

    needs: frozenset[str] = frozenset()

    def __call__(self, ctx: StepContext) -> Tensor:
        total = weight = ctx.zero()
        for pair in ctx.comparisons:
            apart = huber_loss(pair.pred_k, pair.target_k, reduction="none")
            total = total + (apart.mean((0, 3)) * pair.weight).sum()
            weight = weight + pair.weight.sum()
        return total / weight.clamp_min(1e-9)
