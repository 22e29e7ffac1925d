"""Metrics of a run: one JSON line each, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any


class Metrics:
    """Appends to ``metrics.jsonl`` and ``tensorboard/``; silent off the main rank."""

    def __init__(self, run_dir: Path, enabled: bool = True) -> None:
        """Open a run's metrics; earlier lines stay."""
        self._enabled = enabled
        if not enabled:
            return
        from torch.utils.tensorboard.writer import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / "metrics.jsonl"
        _drop_torn_line(self._path)
        self._board = SummaryWriter(str(run_dir / "tensorboard"))

    def write(
        self, arm: str, phase: str, line: dict[str, Any], offset: int = 0
    ) -> None:
        """Add one line.

        Args:
            arm: ``main``, ``ce_only`` or ``single:<teacher>``.
            phase: its name.
            line: has ``kind`` and, mostly, ``step`` within the phase.
            offset: steps of earlier phases, for TensorBoard's axis.
        """
        if not self._enabled:
            return
        full = {"time": round(time.time(), 3), "arm": arm, "phase": phase, **line}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(full, allow_nan=True) + "\n")
        step = offset + int(line.get("step", 0))
        for name, value in _numbers(line):
            if name != "step" and math.isfinite(value):
                self._board.add_scalar(f"{arm}/{line['kind']}/{name}", value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._enabled:
            self._board.close()


def _numbers(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for key, value in tree.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, dict):
            out += _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out.append((name, float(value)))
    return out


def _drop_torn_line(path: Path) -> None:
    """Cut a last line that a killed process left unfinished."""
    if not path.is_file():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
