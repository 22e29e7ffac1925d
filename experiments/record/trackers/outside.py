"""Trackers that are not ours: TensorBoard's board, wandb, trackio, mlflow and others.

They are accelerate's, ``train.trackers`` names them. They get what ``metrics.jsonl``
gets, from a thread of their own: a server that answers slowly, or a library that
breaks, costs the run a warning and nothing else.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any

from experiments.config.parsing import plain
from experiments.record.trackers import in_mlflow

if TYPE_CHECKING:
    from experiments.config.tree import Config

PROJECT = "mtkd"
"""What the group of runs is called there."""
FOLDER = "trackers"
"""In a run's folder: what trackers write on disk."""
WAITING = 10_000
"""Lines that may wait for a slow tracker; what comes on top is not told to it."""
PATIENCE = 30.0
"""Seconds that the end of a run waits for trackers to take what is left."""
_OWN_STEPS = ("wandb", "trackio", "swanlab")
"""Count steps themselves, upwards alone: arms begin again at 0, so that they are given
the step as a number beside the others."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_YES = {"1", "ON", "YES", "TRUE"}
"""As the hub's library reads them; 0 is no."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """The run, as trackers are told of it."""

    folder: Path
    """The run's."""
    name: str
    id: str
    settings: Mapping[str, Any]
    """By sections, as config.yaml has them."""


class Outside:
    """Hands numbers to trackers, each as long as it takes them."""

    def __init__(
        self, names: Sequence[str], run: Tracked, patience: float = PATIENCE
    ) -> None:
        """Start a thread, which opens them; without names nothing is started."""
        self._names, self._run, self._patience = tuple(names), run, patience
        self._open: dict[str, Any] = {}
        self._lines: Queue[tuple[dict[str, Any], int] | None] = Queue(WAITING)
        self._late = 0
        self._thread: threading.Thread | None = None
        if self._names:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Hand over numbers and texts by their names; returns at once.

        Args:
            values: numbers or texts; of the run's arm the name's first part.
            step: optimiser steps of the arm so far.
        """
        if self._thread is None:
            return
        try:
            self._lines.put_nowait((dict(values), step))
        except Full:
            if not self._late:
                warnings.warn(
                    f"trackers ({', '.join(self._names)}) are slower than the run and "
                    "miss some of its lines; all are in metrics.jsonl",
                    stacklevel=2,
                )
            self._late += 1

    def close(self) -> None:
        """Let them take what is left, for some seconds."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        try:
            self._lines.put(None, timeout=self._patience)
            thread.join(self._patience)
        except Full:
            pass
        if thread.is_alive():
            warnings.warn(
                f"trackers ({', '.join(self._names)}) did not take all within "
                f"{self._patience:.0f} s; all numbers are in metrics.jsonl",
                stacklevel=2,
            )

    def _work(self) -> None:
        for name in self._names:
            self._try(name, self._start)
        while (line := self._next()) is not None:
            for name in tuple(self._open):
                self._try(name, self._hand, *line)
        for name in tuple(self._open):
            self._try(name, self._finish)

    def _next(self) -> tuple[dict[str, Any], int] | None:
        while True:
            try:
                return self._lines.get(timeout=1.0)
            except Empty:
                if not threading.main_thread().is_alive():
                    return None

    def _try(self, name: str, act: Any, *arguments: Any) -> None:
        try:
            act(name, *arguments)
        except Exception as error:  # whatever a stranger's library raises
            self._open.pop(name, None)
            said = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(
                f"tracker {name!r} gets no more of this run ({said[0]}); all of its "
                f"numbers are in {self._run.folder / 'metrics.jsonl'}",
                stacklevel=2,
            )

    def _start(self, name: str) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's log asks for it; a run has one
        folder = self._run.folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        kind = LOGGER_TYPE_TO_CLASS[name]
        asked = _asked_of(name, kind, self._run, folder)
        tracker = kind(**asked)
        tracker.start()
        self._open[name] = tracker
        if "run_id" not in asked:  # mlflow refuses to change a run's settings
            tracker.store_init_configuration(flat(self._run.settings))

    def _hand(self, name: str, values: Mapping[str, Any], step: int) -> None:
        if name in _OWN_STEPS:
            arm = next(iter(values)).partition("/")[0]
            self._open[name].log({**values, f"{arm}/step": step})
        elif name == "mlflow":
            if metrics := in_mlflow.numbers(values):
                self._open[name].log(metrics, step=step)
            in_mlflow.keep_texts(values, step)
        else:
            self._open[name].log(dict(values), step=step)

    def _finish(self, name: str) -> None:
        self._open.pop(name).finish()


def trackers_of(config: Config, run_id: str) -> Outside | None:
    """The trackers of a run's ``train.trackers``; None where there are none."""
    if not config.train.trackers:
        return None
    folder, name = config.run_dir, config.run.name
    run = Tracked(folder=folder, name=name, id=run_id, settings=plain(config))
    return Outside(config.train.trackers, run)


def _asked_of(name: str, kind: Any, run: Tracked, folder: Path) -> dict[str, Any]:
    """What a tracker is made with: one project, the run's name, a place on disk."""
    if name == "mlflow":
        return in_mlflow.settings_of(PROJECT, run.name, run.id, folder)
    asked: dict[str, Any] = {"run_name": PROJECT}
    if kind.requires_logging_directory:
        asked["logging_dir"] = str(folder)
    if name == "wandb":
        asked |= {"name": run.name, "id": run.id, "resume": "allow"}
        asked["dir"] = str(folder)
        if any(os.environ.get(word, "").upper() in _YES for word in _OFFLINE):
            asked["mode"] = os.environ.get("WANDB_MODE", "offline")
    if name == "trackio":
        asked |= {"name": run.name, "resume": "allow"}
    return asked


def flat(tree: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Settings by dotted names, as plain values; lists as text."""
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{place}.{key}" if place else str(key)
        if isinstance(value, Mapping):
            rows |= flat(value, name)
        else:
            plain = isinstance(value, bool | int | float | str)
            rows[name] = value if plain else str(value)
    return rows
