"""Learning rates and weight decay of an optimiser's groups at each step."""

from __future__ import annotations

from collections.abc import Sequence

from align.schedules import Timetable, is_schedule
from student.config import TrainConfig


class Rates:
    """What each group's learning rate is."""

    def __init__(
        self,
        config: TrainConfig,
        places: Sequence[str],
        timetable: Timetable,
        decays: Sequence[bool] = (),
    ) -> None:
        """Remember which setting of ``train`` each group goes by.

        Args:
            config: the phase's.
            places: a field of it for each group.
            timetable: of the phase, whose length it knows.
            decays: for each group, whether ``train.weight_decay`` is meant.
        """
        self._config, self._places, self._timetable = config, tuple(places), timetable
        self._decays = tuple(decays)

    def at(self, step: int) -> list[float]:
        """One a group."""
        share = self.share(step)
        return [self._rate(place, step, share) for place in self._places]

    def decay_at(self, step: int) -> list[float]:
        """Weight decay, one a group."""
        decay = self._timetable.value(
            self._config.weight_decay, "train.weight_decay", step
        )
        return [decay if decays else 0.0 for decays in self._decays]

    def named(self, step: int) -> dict[str, float]:
        """The student's as metrics call them: AdamW's, and Muon's beside it."""
        names = {"lr": "learning_rate"}
        if self._config.optimizer == "muon":
            names["matrix_lr"] = "matrix_learning_rate"
        share = self.share(step)
        return {name: self._rate(place, step, share) for name, place in names.items()}

    def _rate(self, place: str, step: int, share: float) -> float:
        """A plain number is the peak of the common schedule."""
        rate = getattr(self._config, place)
        if is_schedule(rate):
            return self._timetable.value(rate, f"train.{place}", step)
        return float(rate * share)

    def share(self, step: int) -> float:
        """Of its peak that a rate is at which is a plain number."""
        timetable = self._timetable
        if not is_schedule(self._config.lr_schedule):
            # Every run has this one, and its `lr` shows it: it is not noted.
            timetable = Timetable(timetable.total_steps)
        return timetable.value(self._config.rate_share, "train.lr_schedule", step)
