"""What a phase writes and shows while it trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from experiments.assemble.layer_maps import Depth
from experiments.assemble.teaching import PhaseTeachers
from experiments.record.metrics import Metrics
from experiments.record.progress import Work, describe_losses
from experiments.record.run_dir import MAIN
from experiments.record.stop import StopRequest
from experiments.run.alarms import Alarms
from experiments.run.context import PhasePosition
from student.loop.job import Observer


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseObserver(Observer):
    """Writes a phase's metrics, with the alarms that they raise, and shows progress."""

    metrics: Metrics
    position: PhasePosition
    phase: str
    alarms: Alarms
    phase_teachers: PhaseTeachers | None
    work: Work
    stop: StopRequest

    def begin(self, done: int) -> None:
        """See :class:`student.loop.job.Observer`."""
        self.work.start(done)
        self.metrics.rewind(self.position.arm, self.phase, done, self.position.offset)
        self.alarms.recall(self.metrics.written(self.position.arm, self.phase))
        if self.phase_teachers is not None:
            self._write(self.alarms.covers(self.phase_teachers.report.coverage))
            self._write(self.alarms.mute(self.phase_teachers.report.constant))
            self._write(_similarity(self.phase_teachers.depth))

    def log(self, line: dict[str, Any]) -> None:
        """See :class:`student.loop.job.Observer`."""
        if line["kind"] == "train":
            self.work.note(describe_losses(line))
        self._write(self.alarms.see(line))

    def tick(self, done: int) -> None:
        """See :class:`student.loop.job.Observer`."""
        self.work(done)
        if self.position.arm == MAIN:
            self.stop.steps = self.position.offset + done

    def should_stop(self) -> bool:
        """See :class:`student.loop.job.Observer`."""
        return self.stop.pause_if_due()

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        for line in lines:
            self.metrics.write(
                self.position.arm, self.phase, line, self.position.offset
            )


def _similarity(depth: Depth) -> list[dict[str, Any]]:
    """A line on how alike layers are, where the maps were read off that."""
    if not depth.similarity:
        return []
    layers = {
        name: {
            "cka": [[round(x, 4) for x in row] for row in matrix.tolist()],
            "map": list(depth.maps[name]),
        }
        for name, matrix in depth.similarity.items()
    }
    return [{"kind": "layer_similarity", "teachers": layers}]
