"""Warn while a phase trains: collapse, routing that does nothing, lost text, NaN.

An alarm reads the lines that go into the metrics and nothing else, so that what was
said can be checked against what was written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.config.measuring import AlarmConfig
from fuse.routing_stats import routing_alarm

HEALTH = {
    "std_k": ("key spread", "spread"),
    "std_v": ("value spread", "spread"),
    "rank_k": ("key rank", "rank"),
    "rank_v": ("value rank", "rank"),
}
"""Per measurement of the student's KV what it is called, and its threshold's name."""

SETTLING = 0.1
"""Share of a phase in which a rank may fall unwarned: that of untrained weights is
high, being noise, and gives way as the student learns."""

EMPTY_LINES = 3
"""Lines of a phase in a row after which a term that compared nothing is told."""

Line = dict[str, Any]


def short_of(share: float, least: float) -> tuple[str, str]:
    """A share and the bar that it is below, in as many digits as tell them apart."""
    for digits in range(5):
        words = f"{share:.{digits}%}", f"{least:.{digits}%}"
        if words[0] != words[1]:
            return words
    return f"less than {least:.0%}", f"{least:.0%}"


@dataclass(kw_only=True, slots=True)
class Alarms:
    """Watches the metric lines of one phase of one arm; each kind warns once."""

    config: AlarmConfig
    steps: int
    """Optimiser steps of the phase."""
    start: Mapping[str, float]
    """Spread and rank of the student's KV as the phase began."""
    min_coverage: float
    """``align.min_coverage``."""
    routed: bool
    """Whether weights depend on the text; fixed ones cannot go wrong."""
    warn: Callable[[str], None]
    """Shows one line at once."""
    _settled: dict[str, float] = field(default_factory=dict)
    """The least share of the start's rank while it settled."""
    _raised: set[str] = field(default_factory=set)
    _skipped: int = 0
    _first_length: float | None = None
    """Of the phase's first buffer, mean tokens of a text."""
    _coverage: dict[str, list[float]] = field(default_factory=dict)
    _empty: dict[str, int] = field(default_factory=dict)
    """Of terms, lines in a row at which they compared nothing."""

    def see(self, line: Line) -> list[Line]:
        """Take one metric line; give back what is to be written.

        Args:
            line: of any kind. ``health`` gets ``against_start``, the measurements as
                shares of the start's, and ``skipped``, the losses that were not
                finite so far.

        Returns:
            The line, and an ``event`` for every alarm which it raises.
        """
        kind = line.get("kind")
        if kind == "health":
            line = line | self._compared(line)
            raised = self._collapse(line)
        elif kind == "routing":
            raised = self._routing(line)
        elif kind == "train":
            raised = self._uncovered(line.get("coverage", {})) | self._idle(line)
        elif kind == "event":
            raised = self._not_finite(line)
        elif kind == "written":
            raised = self._writing(line)
        else:
            raised = {}
        return [line, *self._raise(raised, int(line.get("step", 0)))]

    def recall(self, lines: Iterable[Line]) -> None:
        """Take up what an interrupted start of this phase has written already."""
        for line in lines:
            if "alarm" in line:
                self._raised.add(line["alarm"])
            elif line.get("kind") == "event":
                self._not_finite(line)
            elif line.get("kind") == "train":
                self._uncovered(line.get("coverage", {}))
                self._idle(line)
            elif line.get("kind") == "health":
                self._settle(line)
            elif line.get("kind") == "written":
                self._writing(line)

    def covers(self, coverage: Mapping[str, float]) -> list[Line]:
        """Take what the calibration sample says of each teacher's coverage."""
        return self._raise(self._low(coverage), 0)

    def mute(self, constant: Mapping[str, Mapping[str, Sequence[int]]]) -> list[Line]:
        """Take what of each teacher is the same at every token of the sample."""
        return self._raise(
            {
                f"constant {name}": (
                    f"teacher {name!r} says the same of every token: "
                    f"{_sides(sides)} do not vary over the calibration sample, and "
                    "nothing can be learned from that; are its weights whole?"
                )
                for name, sides in constant.items()
            },
            0,
        )

    def _raise(self, raised: Mapping[str, str], step: int) -> list[Line]:
        events = []
        for alarm, message in raised.items():
            if alarm not in self._raised:
                self._raised.add(alarm)
                self.warn(f"step {step}: {message}" if step else message)
                event = {"kind": "event", "step": step, "alarm": alarm}
                events.append(event | {"event": message})
        return events

    def _compared(self, line: Line) -> Line:
        shares = {
            name: line[name] / before
            for name, before in self.start.items()
            if name in HEALTH and before > 0
        }
        return {"against_start": shares, "skipped": self._skipped}

    def _settle(self, line: Line) -> None:
        if line["step"] > SETTLING * self.steps:
            return
        for name, share in line["against_start"].items():
            if HEALTH[name][1] == "rank":
                self._settled[name] = min(share, self._settled.get(name, 1.0))

    def _collapse(self, line: Line) -> dict[str, str]:
        self._settle(line)
        least = {"spread": self.config.min_spread, "rank": self.config.min_rank}
        raised = {}
        for name, of_start in line["against_start"].items():
            said, kind = HEALTH[name]
            before = self._settled.get(name, 1.0)
            share = of_start / before if before > 0 else of_start
            since = "when the phase began" if before == 1 else "once it had settled"
            if not share >= least[kind]:  # NaN is no share either
                raised[f"collapse {name}"] = (
                    f"the student's {said} is {share:.0%} of what it was {since} "
                    f"(alarms.min_{kind} is {least[kind]:.0%}): keys and "
                    "values may be collapsing; lower loss.lambda_k and loss.lambda_v, "
                    "or compare `health` with the CE-only student's"
                )
        return raised

    def _routing(self, line: Line) -> dict[str, str]:
        if not self.routed:
            return {}
        domains: Mapping[str, Mapping[str, float]] = line.get("weights", {})
        teachers = list(next(iter(domains.values()), {}))
        if not teachers:
            return {}
        mean = {
            name: sum(row[name] for row in domains.values()) / len(domains)
            for name in teachers
        }
        # A router starts uniform: only one that stays so is of no use.
        late = 2 * line["step"] > self.steps
        alarm = routing_alarm(
            mean,
            line["entropy"],
            domains,
            self.config.max_weight,
            self.config.max_entropy if late else math.inf,
            starved_share=self.config.min_weight if late else 0.0,
        )
        return {} if alarm is None else {f"routing {alarm.kind}": alarm.message}

    def _writing(self, line: Line) -> dict[str, str]:
        """Judge a buffer of texts that were written, where any was wanted."""
        if line.get("read") == 0:
            return {}
        raised: dict[str, str] = {}
        advice = (
            "draw otherwise (data.written.writer, data.written.temperature), or lower "
            "data.written.share"
        )
        repeated, length = line.get("repetition", 0.0), line.get("length", 0.0)
        if repeated > self.config.max_repetition:
            raised["written repetition"] = (
                f"{repeated:.0%} of what is written repeats itself "
                f"(alarms.max_repetition is {self.config.max_repetition:.0%}); {advice}"
            )
        first = self._first_length = self._first_length or length
        if not length or length < self.config.min_length * first:
            raised["written length"] = (
                f"texts that are written have {length:.1f} tokens, those of the "
                f"phase's first buffer {first:.1f} (alarms.min_length is "
                f"{self.config.min_length:.0%}); {advice}"
            )
        return raised

    def _uncovered(self, coverage: Mapping[str, float]) -> dict[str, str]:
        """Judge the mean over the phase: a single batch may be odd."""
        for name, share in coverage.items():
            self._coverage.setdefault(name, []).append(share)
        return self._low({n: sum(v) / len(v) for n, v in self._coverage.items()})

    def _low(self, coverage: Mapping[str, float]) -> dict[str, str]:
        raised = {}
        for name, covered in coverage.items():
            if covered < self.min_coverage:
                share, bar = short_of(covered, self.min_coverage)
                raised[f"coverage {name}"] = (
                    f"teacher {name!r} covers only {share} of the student's tokens "
                    f"(align.min_coverage is {bar}); what it knows of the rest is not "
                    "taught"
                )
        return raised

    def _idle(self, line: Line) -> dict[str, str]:
        """Judge terms that find no place at all, whose loss is 0 and looks learned."""
        empty = line.get("empty", ())
        self._empty = {name: self._empty.get(name, 0) + 1 for name in empty}
        return {
            f"empty {name}": (
                f"term {name!r} has found nothing to compare in {lines} lines, and "
                "teaches nothing: no token counts that a teacher reaches and that is "
                "no attention sink (loss.skip_sinks)"
            )
            for name, lines in self._empty.items()
            if lines >= EMPTY_LINES
        }

    def _not_finite(self, line: Line) -> dict[str, str]:
        if "non-finite" not in str(line.get("event", "")):
            return {}
        self._skipped += 1
        if self._skipped <= self.config.max_skipped:
            return {}
        names = [str(name) for name in line.get("samples", [])]
        shown = ", ".join(names[:4]) + ("…" if names[4:] else "")
        return {
            "non-finite": (
                f"{line['event']} on samples {shown}, skipped "
                f"({self._skipped} so far); lower train.learning_rate or the largest "
                "loss weight if it comes back"
            )
        }


def _sides(sides: Mapping[str, Sequence[int]]) -> str:
    """``keys for layers 0, 1 of the student and values for layer 3``."""
    parts = []
    for side, layers in sides.items():
        layer = "layer" if len(layers) == 1 else "layers"
        parts.append(
            f"its {side} for the student's {layer} {', '.join(map(str, layers))}"
        )
    return " and ".join(parts)
