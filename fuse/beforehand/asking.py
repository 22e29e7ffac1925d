"""Which teachers a text is for, and what it saves that the others do not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from align.reading import ASKING, Reading
from align.text.documents import TextSample

_TEACHERS = "teachers"
"""What asking teachers is called where time is told apart, see the stopwatch."""


class Choose(Protocol):
    """Chooses teachers text by text before any of them reads."""

    def __call__(self, samples: Sequence[TextSample], numbers: Sequence[int]) -> Tensor:
        """(B, M) bool on the CPU: which are asked about which of these texts; the same
        for a text and its number whoever asks, whenever."""


@dataclass(slots=True)
class Asking:
    """How many texts each teacher was asked about, and how long it took.

    Of this process, since the last :meth:`take`.
    """

    texts: int = 0
    """In all."""
    asked: dict[str, int] = field(default_factory=dict)
    """Of them, by teacher, those that it was asked about."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What answering took."""
    _rate: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Seconds and texts of each since the beginning."""

    def note(self, readings: Sequence[Reading], seconds: Mapping[str, float]) -> None:
        """Count a pass.

        Args:
            readings: one per teacher; those of a pass without choice count nothing.
            seconds: by what was done, as :func:`together` was given it.
        """
        chosen = [r for r in readings if r.some is not None]
        self.texts += len(chosen[0].student.ids) if chosen else 0
        for reading in chosen:
            assert reading.some is not None
            name, count = reading.name, len(reading.some.rows)
            spent = seconds.get(ASKING + name, 0.0)
            self.asked[name] = self.asked.get(name, 0) + count
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
            before, texts = self._rate.get(name, (0.0, 0))
            self._rate[name] = (before + spent, texts + count)

    def take(self, steps: int) -> dict[str, Any]:
        """A line's part: the share of texts by teacher, and the seconds saved a step.

        Args:
            steps: since the last call.

        What a teacher would have taken for the texts that it was not asked about is
        reckoned by what it took for those it was; of one that was never asked nobody
        knows it, and it counts nothing.
        """
        if not self.texts:
            return {}
        shares = {name: count / self.texts for name, count in self.asked.items()}
        saved = 0.0
        for name, count in self.asked.items():
            spent, texts = self._rate[name]
            saved += (self.texts - count) * spent / texts if texts else 0.0
        self.texts, self.asked, self.seconds = 0, {}, {}
        return {"asked": shares, "saved_s": saved / steps}


def together(seconds: Mapping[str, float]) -> dict[str, float]:
    """Time by what was done, that of single teachers put under ``teachers``."""
    out: dict[str, float] = {}
    for name, spent in seconds.items():
        whole = _TEACHERS if name.startswith(ASKING) else name
        out[whole] = out.get(whole, 0.0) + spent
    return out
