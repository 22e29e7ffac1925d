"""The student's next-token loss while it reads the fused keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from align.schedules import Timetable
from align.support.stopwatch import part
from align.views import Injection, with_kv
from student.bridges.base import Bridge
from student.config import LossConfig
from student.objective import StepContext
from student.step.context import ContextMaker, of_kv
from student.step.records import PassInputs
from student.step.student_pass import StudentPass
from student.terms.key_value import ce
from student.trained import frozen


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """The second pass of the student, and what it is for."""

    bridge: Bridge
    """Fuses, and holds the gates."""
    student: StudentPass
    """Reads once more."""
    contexts: ContextMaker
    """Says where logits come from."""
    config: LossConfig
    """Says how much the loss counts, and whether routers learn from it."""
    layers: Sequence[int]
    """Of the student, which read what is fused."""
    timetable: Timetable
    """What settings are at a step."""

    def losses(self, inputs: PassInputs, routing: Tensor) -> dict[str, Tensor]:
        """The loss with its weight, by name; none where nothing can be fused.

        The student's own weights stand still in this pass: it must learn to need no
        bridge, not to lean on one.

        Args:
            inputs: of the pass.
            routing: (B, T, M) or (L, B, T, M) float32, carries the router's gradient.
        """
        batch, views, share = inputs.batch, inputs.views, inputs.share
        if self.config.router_signal == "teacher_loss":
            routing = routing.detach()
        with part("fuse"):
            met = of_kv(routing, views)
            fused = self.bridge.fuse_for_injection(with_kv(views), met)
        if fused is None:
            return {}
        inject = Injection(
            fused.select_layers(self.layers),
            self.layers,
            fused.mask & batch.has_text,
            self.bridge.gates[list(self.layers)],
        )
        with frozen(self.student.student):
            captured = self.student.look(batch, inject=inject)
            totals = None if share is None else share.step.terms["outcome"]
            value = ce(
                StepContext(
                    batch=batch,
                    output=self.contexts.next_token(captured),
                    totals=totals,
                )
            )
        eta = self.timetable.value(
            self.config.eta_outcome, "loss.eta_outcome", inputs.step
        )
        return {"outcome": eta * value}
