"""How much each teacher counts in one pass, as the student stands."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from align.schedules import Setting, Timetable
from align.views import Captured
from fuse.beforehand.choose import text_draws
from fuse.config import SAMPLED
from fuse.signals import Signals, signals_needed
from fuse.weigher import Weighed, Weigher
from student.attention_sinks import without_sinks
from student.places import availability
from student.step.records import PassInputs
from student.step.signals import PassSignals


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeighedTeachers:
    """The teachers of one pass, as the student stands."""

    available: Tensor
    """(B, T, M) bool, which teacher covers which token."""
    clear: Tensor
    """(B, T, M) bool, False on padding and on attention sinks."""
    weighed: Weighed
    """Their weights, with the router's gradient."""
    signals: Signals | None
    """What anybody asks to be told."""

    @property
    def routing(self) -> Tensor:
        """(B, T, M) or (L, B, T, M) float32, detached, by which they count."""
        return self.weighed[1].detach()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Routing:
    """What weighs the teachers of a phase."""

    weigher: nn.Module
    """See :attr:`student.step.records.Teaching.weigher`."""
    signals: PassSignals
    """What it, and whoever selects places, is told."""
    skip_sinks: int
    """Leading tokens that are left out."""
    temperature: Setting | None
    """``fuse.temperature``, where it moves."""
    timetable: Timetable
    """What settings are at a step."""

    def weigh(self, captured: Captured, inputs: PassInputs) -> WeighedTeachers:
        """Weigh the teachers of one pass.

        Args:
            captured: the student, seen from inside.
            inputs: of the pass.
        """
        assert captured.hidden is not None
        batch, views, share = inputs.batch, inputs.views, inputs.share
        if share is None:
            available = availability(batch, views)
            clear = without_sinks(batch, views, self.skip_sinks)
        else:
            available, clear = share.places.available, share.places.clear
        self._move_temperature(inputs.step)
        signals = self.signals.of(captured, inputs, available)
        weighed = self._weigh(captured.hidden.detach(), inputs, available, signals)
        return WeighedTeachers(
            available=available, clear=clear, weighed=weighed, signals=signals
        )

    def _move_temperature(self, step: int) -> None:
        if self.temperature is None:
            return
        assert isinstance(self.weigher, Weigher)
        self.weigher.temperature = self.timetable.value(
            self.temperature, "fuse.temperature", step
        )

    def _weigh(
        self,
        hidden: Tensor,
        inputs: PassInputs,
        available: Tensor,
        signals: Signals | None,
    ) -> Weighed:
        """Weights before and after teachers were chosen."""
        batch, numbers = inputs.batch, inputs.numbers
        if not isinstance(self.weigher, Weigher):
            given = (signals,) if signals_needed(self.weigher) else ()
            weights = self.weigher(hidden, batch.mask, available, *given)
            return Weighed(weights, weights)
        draws = None
        if self.weigher.choice == SAMPLED:
            texts, tokens = batch.ids.shape
            of_run = range(texts) if numbers is None else numbers
            draws = text_draws(self.timetable.seed, of_run, tokens).to(hidden.device)
        return self.weigher.weigh(hidden, batch.mask, available, signals, draws)
