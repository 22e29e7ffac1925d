"""How a teacher reads a batch: all that is known of it before the teacher runs.

Which student tokens a teacher can say anything about follows from two tokenizations of
one text. So what the places of an optimiser step weigh together is known before its
first forward pass, and every term can divide by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from align.time_align import Alignment
from align.tokenizer_align import LastTokenAligner
from align.tokens.batch import TokenBatch
from align.tokens.pairs import within_parts

ASKING = "asking "
"""Before a teacher's name, what asking it is called where time is told apart, see
:mod:`align.support.stopwatch`."""


@dataclass(frozen=True, slots=True, eq=False)
class SomeTexts:
    """The texts of a batch about which a teacher is asked, where they are chosen."""

    rows: Tensor
    """(k,) int64, ascending, 0 <= k < B: which of the batch's texts."""
    reading: Reading | None
    """Of them alone; None where there is none."""


@dataclass(
    frozen=True, kw_only=True, eq=False
)  # without slots: one thing is found when asked for
class Reading:
    """One teacher's tokens of the student's texts, live or stored, on its device."""

    name: str
    """The teacher's name in the config."""
    student: TokenBatch
    """The student's tokens, (B, T_s)."""
    tokens: TokenBatch | None
    """The teacher's own, (B, T_t); None where its KV lie on the student's tokens."""
    alignment: Alignment
    """Onto the student's tokens, for losses."""
    causal: Alignment | None
    """Onto the student's tokens without any future, for injection; None for a
    bidirectional teacher."""
    mask: Tensor
    """(B, T_t) bool, tokens that have keys and values; (B, T_s) without ``tokens``."""
    origin: Tensor | None = None
    """See :attr:`align.views.TeacherView.origin`."""
    kv: bool = True
    """Whether it will bring keys and values."""
    attention: bool = False
    """Whether it will bring attention at sampled rows."""
    heads: bool = False
    """Whether it will bring that of every head."""
    states: frozenset[str] = frozenset()
    """Which of :data:`align.views.STATES` it will bring."""
    bits: bool = False
    """Whether it will bring a next-token loss of its own."""
    foretold: bool = False
    """Whether it will say how likely each of its tokens was."""
    vocabulary: str | None = None
    """Digest of its tokens where it will bring a next-token output; else None."""
    some: SomeTexts | None = None
    """The texts that it is asked about, where they are chosen; None: all. On the others
    it has no tokens, so that it covers nothing of them."""

    @classmethod
    def aligned(
        cls,
        name: str,
        student: TokenBatch,
        tokens: TokenBatch,
        align: Callable[[TokenBatch], tuple[Alignment, Alignment | None]],
        **brings: Any,
    ) -> Reading:
        """Of a teacher's own tokens, brought to the student's device and aligned there.

        Args:
            name: the teacher's.
            student: (B, T_s).
            tokens: (B, T_t).
            align: see :data:`align.views.Align`.
            brings: the other fields.
        """
        tokens = tokens.to(student.ids.device)
        alignment, causal = align(tokens)
        alignment = within_parts(alignment, student, tokens)
        return cls(
            name=name,
            student=student,
            tokens=tokens,
            alignment=alignment,
            causal=causal,
            mask=tokens.mask,
            **brings,
        )

    @cached_property
    def readable(self) -> Tensor:
        """(B, T_s) int64: the last teacher token a student token may read, or -1."""
        assert self.tokens is not None
        pairs = LastTokenAligner()(self.student, self.tokens)
        batch, tokens = self.student.ids.shape
        last = torch.full((batch * tokens,), -1, device=pairs.rows.device)
        last[pairs.rows] = pairs.cols % max(self.tokens.ids.shape[1], 1)
        return last.view(batch, tokens)
