"""Run the student, and take down what anything of a step reads of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from align.tokens.batch import TokenBatch
from align.views import Capture, Captured, Injection
from student.balance import Balance
from student.objective import HEADS, STATES


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StudentPass:
    """How the student reads a batch in a phase."""

    student: nn.Module
    """The model that ``capture`` runs."""
    capture: Capture
    """See :class:`align.views.Capture`."""
    needs: frozenset[str]
    """Of all terms together, see :func:`student.objective.needs_of`."""
    logits: bool
    """Whether they are made; where not, they are a product of the hidden states."""
    balance: Balance | None
    """Parts terms from the student where it has to; None for none."""

    def look(
        self,
        batch: TokenBatch,
        rows: Tensor | None = None,
        inject: Injection | None = None,
        all_layers: bool = False,
    ) -> Captured:
        """The student on a batch.

        Args:
            batch: its tokens, (B, T).
            rows: (B, R) int64 query positions of which attention is kept; None: none.
            inject: what it reads beside its own keys and values.
            all_layers: whether keys and values of all layers are kept, or of the first.
        """
        captured = self.capture(
            batch.ids,
            batch.mask,
            layers=None if all_layers else (0,),
            logits=self.logits,
            hidden=inject is None or not self.logits,
            inject=inject,
            attention_rows=rows,
            heads=HEADS in self.needs,
            states=self.needs & STATES if inject is None else (),
        )
        if self.balance is None or inject is not None:
            return captured
        return self.balance.part(captured)

    def look_again(
        self, ids: Tensor, mask: Tensor, change: Callable[[Tensor], Tensor]
    ) -> Captured:
        """The student on ids (B, T), under a mask, with its input embeddings changed;
        gives its last hidden states, and logits where they are made."""
        student: Any = self.student
        hook = student.get_input_embeddings().register_forward_hook(
            lambda module, given, embedded: change(embedded)
        )
        try:
            return self.capture(ids, mask, layers=(0,), logits=self.logits, hidden=True)
        finally:
            hook.remove()
