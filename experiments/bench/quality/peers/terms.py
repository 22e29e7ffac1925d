"""Terms that arms of the quality testbed use and no run of a user's needs: a plugin.

``kd_where`` is ``kd`` on the texts of some domains alone. ``trl_gkd`` and ``trl_gold``
call the functions that TRL itself trains with, so that a peer's loss is learned by the
same student, optimiser and text as ours; they need the package ``trl``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from experiments.bench.quality.peers.trl_losses import gkd, gold
from plugins.hookspecs import hookimpl
from student.objective import OUTPUTS, Objective, StepContext
from student.terms.next_token import kd


@dataclass(frozen=True, kw_only=True)
class KdWhere:
    """Divergence from teachers of the student's vocabulary on some texts alone.

    Every place weighs what it would if teachers were heard on all texts: the mean is
    over all of them.
    """

    domains: list[str] = field(default_factory=list)
    """Whose texts it is heard on; none, or texts of which nobody knows: on all."""
    elsewhere: bool = False
    """Whether it is heard on all other texts instead."""
    needs = frozenset({OUTPUTS})
    compares = False
    same_vocabulary = True

    def __call__(self, ctx: StepContext) -> Tensor:
        """A mean over the pass, float32."""
        outputs = ctx.outputs
        if outputs is None or not outputs.teachers:
            return ctx.zero()
        if not self.domains or outputs.domains is None:
            return kd(ctx)
        heard = torch.tensor(
            [(name in self.domains) != self.elsewhere for name in outputs.domains],
            device=ctx.batch.ids.device,
        )
        everywhere = sum(
            float(outputs.pairing(taught).same_next(taught.weight).sum())
            for taught in outputs.teachers
        )
        teachers = [
            replace(t, weight=t.weight * heard[:, None]) for t in outputs.teachers
        ]
        there = replace(outputs, teachers=teachers)
        return kd(replace(ctx, outputs=there, totals=(everywhere, 0.0)))


@dataclass(frozen=True, kw_only=True)
class TrlGkd:
    """What TRL's GKDTrainer minimises on given text: generalised Jensen-Shannon."""

    beta: float = 0.5
    """0: forward KL, 1: reverse KL (MiniLLM's, on given text); TRL's default."""
    temperature: float = 1.0
    """TRL's default is 0.9."""
    needs = frozenset({OUTPUTS})
    compares = False
    same_vocabulary = True

    def __call__(self, ctx: StepContext) -> Tensor:
        """A mean over the pass and its teachers, float32."""
        if ctx.outputs is None:
            return ctx.zero()
        losses = [
            gkd(ctx.outputs, taught, self.beta, self.temperature)
            for taught in ctx.outputs.teachers
        ]
        return sum(losses, ctx.zero()) / max(1, len(losses))


@dataclass(frozen=True, kw_only=True)
class TrlGold:
    """What TRL's GOLDTrainer minimises on given text, across vocabularies."""

    merge: str = "observed"
    """TRL's ``uld_token_merge_strategy``: ``observed``, its own, or ``bayesian``."""
    hybrid: bool = False
    """TRL's ``uld_use_hybrid_loss``: tokens of both vocabularies are compared as such,
    and the rest, or without it all, by rank."""
    beta: float = 0.5
    """Of the hybrid part."""
    tokenizers: list[str] = field(default_factory=list)
    """Of the hybrid part: the student's model and the teacher's, which have them."""
    needs = frozenset({OUTPUTS})
    compares = False

    def __call__(self, ctx: StepContext) -> Tensor:
        """A mean over the texts of the pass and its teachers, float32."""
        if ctx.outputs is None:
            return ctx.zero()
        losses = [gold(ctx.outputs, taught, self) for taught in ctx.outputs.teachers]
        return sum(losses, ctx.zero()) / max(1, len(losses))


@hookimpl
def objectives() -> Mapping[str, Callable[..., Objective]]:
    """Offer all of them."""
    return {"kd_where": KdWhere, "trl_gkd": TrlGkd, "trl_gold": TrlGold}
