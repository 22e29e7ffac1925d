"""What one teacher says about one batch, ready to meet the student."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from align.errors import MtkdError
from align.kv import KV
from align.output import Output
from align.time_align import Alignment


class NonFiniteTeacherError(MtkdError, RuntimeError):
    """A teacher's keys or values are NaN or infinite."""

    def __init__(self, teacher: str, message: str) -> None:
        """Say whose, and what to do."""
        super().__init__(message)
        self.teacher = teacher


@dataclass(frozen=True, slots=True, eq=False)
class TeacherView:
    """One teacher's keys and values with the map onto the student's tokens.

    Live and stored teachers look the same from here on.
    """

    name: str
    """The teacher's name in the config."""
    kv: KV
    """The layers the layer map needs, over the teacher's own tokens."""
    alignment: Alignment
    """Onto the student's tokens, for losses."""
    causal: Alignment | None
    """Onto the student's tokens without any future, for injection; None for a
    bidirectional teacher, which is never injected."""
    attention: Tensor | None = None
    """(L, B, R, T_s) float32: attention at the sampled student positions, already
    carried onto the student's tokens, rows summing to 1 or 0."""
    bits_per_char: Tensor | None = None
    """(B,) float32: the teacher's own next-token loss; None where it has none."""
    origin: Tensor | None = None
    """(B, T_s) int64: the first of the teacher's tokens that feeds each student token,
    -1 for none; where ``kv`` is on the student's tokens already and the alignment
    cannot tell. None reads it off the alignment."""
    output: Output | None = None
    """The teacher's own tokens and what its head is given for them; None where no
    objective compares its next-token distributions."""
