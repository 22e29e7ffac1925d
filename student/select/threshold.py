"""Where a line is drawn between places: a number, a percentile, a deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.schedules import Setting
from align.schedules.setting import greatest
from fuse.signals import DOMAIN
from student.select.candidates import Candidates
from student.select.sketch import RunningSketch, bucket_of

Apart = Literal["none", "teachers", "domains", "both"]


class Threshold(nn.Module):
    """A line among the numbers of places: fixed, or from a sketch of the last steps.

    Lines of a sketch follow from steps before; in the first step, and for whom nothing
    has been counted yet, there is none, and everything is kept.
    """

    def __init__(
        self,
        teachers: Sequence[str],
        domains: Sequence[str],
        *,
        threshold: Setting | None,
        percentile: Setting | None,
        deviations: float | None,
        apart: Apart,
    ) -> None:
        """Draw it in one of three ways.

        Args:
            teachers: M names; none where numbers are no teacher's.
            domains: of all texts that are learned from.
            threshold: the line itself.
            percentile: in [0, 100], the share of places that lies below.
            deviations: standard deviations above the mean.
            apart: whose lines are drawn by themselves.

        Raises:
            InputError: not one of the three is given.
        """
        super().__init__()
        ways = {
            "threshold": threshold,
            "percentile": percentile,
            "deviations": deviations,
        }
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise InputError(
                f"{' and '.join(given)} exclude each other; give one of "
                f"{', '.join(ways)}"
            )
        if percentile is not None and greatest(percentile) > 100:
            raise InputError(f"percentile is {percentile}; give one in [0, 100]")
        if apart in ("teachers", "both") and not teachers:
            raise InputError(
                f"apart is {apart!r}, and what is compared is the student's, the same "
                "beside every teacher; leave apart out, or set it to domains"
            )
        if apart != "none" and threshold is not None:
            raise InputError(
                f"apart is {apart!r}, and threshold is one line for all; leave apart "
                "out, or give what is counted: a percentile, deviations or a share"
            )
        self._ways = ways
        by_teacher = apart in ("teachers", "both") and len(teachers) > 0
        by_domain = apart in ("domains", "both")
        self.needs = frozenset({DOMAIN} if by_domain else ())
        """What it is told beside the numbers."""
        self._teachers = len(teachers) if by_teacher else 1
        self._domains = tuple(domains) if by_domain and domains else ("",)
        self.sketch = None
        if threshold is None:
            self.sketch = RunningSketch(self._teachers * len(self._domains))

    def line(
        self, candidates: Candidates, shape: torch.Size, percentile: float | None = None
    ) -> Tensor | float:
        """What numbers (B, T) or (B, T, M) are compared with.

        Args:
            candidates: of the pass.
            shape: of the numbers.
            percentile: in place of the one that was given.

        Returns:
            As ``shape``, or one for all: -inf where everything is to lie above, NaN
            where nothing is known yet.
        """
        ways, step = self._ways, candidates.step
        if self.sketch is None:
            setting = ways["threshold"]
            assert setting is not None
            return candidates.number(setting, "threshold")
        if ways["percentile"] is not None:
            if percentile is None:
                percentile = candidates.number(ways["percentile"], "percentile")
            if percentile in (0, 100):
                return -math.inf if percentile == 0 else math.inf
            lines = self.sketch.quantile(percentile / 100, step)
        else:
            mean, deviation = self.sketch.moments(step)
            deviations = ways["deviations"]
            assert isinstance(deviations, int | float)
            lines = mean + deviations * deviation
        for group, line in enumerate(lines.tolist()):
            if math.isfinite(line):
                candidates.timetable.note(self._place(candidates, group), line)
        device = candidates.known.device
        return lines.to(device, torch.float32)[self._groups(candidates, shape)]

    def note(self, candidates: Candidates, values: Tensor) -> None:
        """Count the numbers (B, T) or (B, T, M) of a pass, where anything is known."""
        if self.sketch is None:
            return
        known = candidates.known if values.dim() == 3 else candidates.known.any(-1)
        groups = self._groups(candidates, values.shape)
        self.sketch.note(
            values[known],
            groups[known],
            step=candidates.step,
            total=candidates.over_processes,
        )

    def _groups(self, candidates: Candidates, shape: torch.Size) -> Tensor:
        """(B, T) or (B, T, M) int64, whose line is drawn at each place."""
        domain = candidates.domain_of_text(self._domains).to(candidates.known.device)
        group = domain.view(-1, *[1] * (len(shape) - 1)) * self._teachers
        if self._teachers > 1:
            group = group + torch.arange(self._teachers, device=group.device)
        return group.expand(shape)

    def _place(self, candidates: Candidates, group: int) -> str:
        domain, teacher = divmod(group, self._teachers)
        names = [self._domains[domain]]
        if self._teachers > 1:
            names.append(candidates.signals.teachers[teacher])
        named = "][".join(name for name in names if name)
        return f"{candidates.place}.line" + (f"[{named}]" if named else "")


def kept(values: Tensor, line: Tensor | float, above: bool = True) -> Tensor:
    """Float32 of the shape of ``values``: 0 where a number lies beyond a line, 1 on it,
    and where either is not known.

    A tensor is a line of a sketch, which tells numbers apart by their buckets alone:
    what shares one with the line lies on it. Else numbers that are all alike, as the
    entropies of a student that knows nothing yet, would be kept or left out together by
    chance.
    """
    if not isinstance(line, Tensor):
        out = values < line if above else values > line
        return 1 - out.float()
    known = ~(values.isnan() | line.isnan())
    at, edge = (bucket_of(x.where(known, 0.0)) for x in (values, line))
    return 1 - (known & (at < edge if above else at > edge)).float()
