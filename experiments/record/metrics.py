"""Metrics of a run: one JSON line each, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

from experiments.record.run_dir import METRICS
from experiments.record.summed_log import SummedLog
from experiments.record.trackers.outside import Outside
from experiments.record.trackers.system import system_numbers


class Metrics:
    """Appends to ``metrics.jsonl`` and ``tensorboard/``; silent off the main rank."""

    def __init__(
        self, run_dir: Path, enabled: bool = True, outside: Outside | None = None
    ) -> None:
        """Open a run's metrics; earlier lines stay.

        Args:
            run_dir: the run's.
            enabled: off in all processes but the first.
            outside: trackers that get the same numbers.
        """
        self._enabled, self._outside = enabled, outside
        if not enabled:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / METRICS
        self._log = SummedLog(self._path)
        self._log.mend_aloud()
        self._boards: dict[str, Any] = {}
        self._shown = True

    def rewind(self, arm: str, phase: str, step: int, offset: int = 0) -> None:
        """Forget what a phase logged after a step, because it is done again.

        Args:
            arm: see :meth:`write`.
            phase: its name.
            step: of the checkpoint from which the phase goes on; 0: from its start.
            offset: steps of earlier phases, for TensorBoard's axis.
        """
        if not self._enabled:
            return
        self._log.mend(lambda line: not _repeated(line, arm, phase, step))
        if not self._shown:
            return
        with self._may_fail():
            self._close(arm)
            self._boards[arm] = self._board(arm, purge_step=offset + step + 1)

    def written(self, arm: str, phase: str) -> list[dict[str, Any]]:
        """The lines of one phase so far; none off the main rank."""
        if not self._enabled:
            return []
        lines = self._log.read().records
        return [x for x in lines if (x.get("arm"), x.get("phase")) == (arm, phase)]

    def _board(self, arm: str, purge_step: int | None = None) -> Any:
        """One writer for each arm: purging a step would hide the other arms'."""
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = self._path.parent / "tensorboard" / arm.replace(":", "-")
        return SummaryWriter(str(folder), purge_step=purge_step)

    def _close(self, arm: str) -> None:
        if arm in self._boards:
            self._boards.pop(arm).close()

    def write_once(self, arm: str, phase: str, line: dict[str, Any]) -> None:
        """Add a line that every launch finds out anew, unless it stands there."""
        if not self._enabled:
            return
        written = json.loads(json.dumps({"arm": arm, "phase": phase, **line}))
        for known in self._log.read().records:
            if {k: v for k, v in known.items() if k != "time"} == written:
                return
        self.write(arm, phase, line)

    def write(
        self, arm: str, phase: str, line: dict[str, Any], offset: int = 0
    ) -> None:
        """Add one line.

        Args:
            arm: ``main``, ``ce_only``, ``single:<teacher>`` or ``without:<teacher>``.
            phase: its name.
            line: has ``kind`` and, mostly, ``step`` within the phase.
            offset: steps of earlier phases, for TensorBoard's axis.
        """
        if not self._enabled:
            return
        now = round(time.time(), 3)
        self._log.append({"time": now, "arm": arm, "phase": phase, **line})
        at = offset + int(line.get("step", 0))
        shown = {f"{line['kind']}/{n}": v for n, v in _numbers(line) if n != "step"}
        shown = {name: value for name, value in shown.items() if math.isfinite(value)}
        if line["kind"] == "train":
            shown |= {f"system/{n}": value for n, value in system_numbers().items()}
        if self._shown:
            with self._may_fail():
                self._show(arm, shown, at)
        if self._outside is not None and shown:
            place = arm.replace(":", "-")
            self._outside.log({f"{place}/{n}": v for n, v in shown.items()}, at)

    def write_texts(self, texts: Mapping[str, str], arm: str, step: int) -> None:
        """Hand samples of writing to TensorBoard and trackers, and to nothing else.

        Args:
            texts: by name.
            arm: see :meth:`write`.
            step: on TensorBoard's axis.
        """
        if not self._enabled or not texts:
            return
        shown = {f"samples/{n}": text for n, text in texts.items()}
        if self._shown:
            with self._may_fail():
                self._show(arm, shown, step)
        if self._outside is not None:
            place = arm.replace(":", "-")
            self._outside.log({f"{place}/{n}": v for n, v in shown.items()}, step)

    def _show(self, arm: str, shown: Mapping[str, float | str], step: int) -> None:
        board = self._boards.get(arm) or self._boards.setdefault(arm, self._board(arm))
        for name, value in shown.items():
            # TensorBoard reads Markdown, where four spaces begin what stays as it is.
            text = isinstance(value, str)
            add = board.add_text if text else board.add_scalar
            add(name, indent(str(value), "    ") if text else value, step)

    @contextmanager
    def _may_fail(self) -> Iterator[None]:
        """Go on without TensorBoard: it shows what ``metrics.jsonl`` holds."""
        try:
            yield
        except (ImportError, OSError) as error:
            self._shown = False
            warnings.warn(
                f"TensorBoard gets no more of this run ({error}); all of its numbers "
                f"are in {self._path}",
                stacklevel=2,
            )

    def close(self) -> None:
        """Flush TensorBoard and other trackers."""
        if self._enabled and self._outside is not None:
            self._outside.close()
        if self._enabled:
            with self._may_fail():
                for arm in list(self._boards):
                    self._close(arm)


def _numbers(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for key, value in tree.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, dict):
            out += _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out.append((name, float(value)))
    return out


def _repeated(line: Mapping[str, Any], arm: str, phase: str, step: int) -> bool:
    same = line.get("arm") == arm and line.get("phase") == phase
    # An unfinished phase is measured again, whatever step that was logged under.
    return same and (line.get("kind") == "eval" or line.get("step", step + 1) > step)
