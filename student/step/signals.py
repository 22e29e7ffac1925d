"""What routers and selectors are told of one pass, worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from align.views import Captured, Output
from fuse.signals import Signals
from student.bridges.base import Bridge
from student.output.across.signals import Sources, signals_of
from student.step.kv_fit import kv_fit
from student.step.records import PassInputs
from student.step_outputs import OutputPlan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PassSignals:
    """What anybody asks to be told, and where that comes from."""

    needs: frozenset[str]
    """Of :data:`fuse.signals.SIGNALS`, of all who ask together."""
    plan: OutputPlan | None
    """Of terms and signals on outputs; None where there is neither."""
    bridge: Bridge | None
    """Compares keys and values; None where nobody meets there."""
    parameters: Mapping[str, int]
    """By teacher; 0 where nobody knows."""

    def of(
        self, captured: Captured, inputs: PassInputs, available: Tensor
    ) -> Signals | None:
        """Those of one pass; None where nobody asks.

        Args:
            captured: the student, seen from inside.
            inputs: of the pass.
            available: (B, T, M) bool, which teacher covers which token.
        """
        plan, bridge, student = self.plan, self.bridge, None
        batch, views, share = inputs.batch, inputs.views, inputs.share
        if plan is not None and captured.hidden is not None:
            student = Output(batch, captured.hidden, plan.head, plan.vocabulary)
        sources = Sources(
            batch=batch,
            views=views,
            domains=inputs.domains,
            student=student,
            vocabulary=None if plan is None else plan.vocabulary,
            pairings=() if share is None else share.places.pairings,
            parameters=self.parameters,
            fit=None
            if bridge is None
            else lambda: kv_fit(bridge, captured, views, available),
        )
        return signals_of(self.needs, sources)
