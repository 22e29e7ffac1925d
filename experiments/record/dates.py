"""The day that chat templates are told: one for a run, or for a store.

Templates of Llama 3, SmolLM3 or gpt-oss write the day into every conversation. Asked
anew each time, a run that goes on past midnight would read other tokens than it began
with, and tasks of one extraction other ones than each other.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.config.tree import Config
from experiments.record.history import IDENTITY, read_json
from teacher.store.manifest import PLAN, Plan, StoreError, read_sealed

if TYPE_CHECKING:
    from teacher.store import KVStore

DATE = "date.txt"
"""Beside the stores of one extraction: the day of all its tasks."""


def dated(config: Config, day: str | None) -> Config:
    """The config with the day in its place; as it is where it names one itself."""
    if day is None or config.data.date is not None:
        return config
    return replace(config, data=replace(config.data, date=day))


def day_of_run(run_dir: Path) -> str | None:
    """The day on which a run began, which it keeps; today for one that begins.

    Returns:
        Year, month and day; None for a run of an earlier version, which kept none.
    """
    known = read_json(run_dir / IDENTITY)
    return known.get("date") if known else date.today().isoformat()


def day_of_stores(folder: Path) -> str | None:
    """The day of an extraction's first task, which all others take.

    Args:
        folder: that holds, or will hold, the stores.

    Returns:
        Year, month and day; None where stores of an earlier version lie there.
    """
    file = folder / DATE
    if not file.is_file():
        for path in sorted(folder.glob(f"*/{PLAN}")):
            kept = read_sealed(path, Plan).fingerprint.get("date")
            return kept if isinstance(kept, str) else None
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{DATE}.{uuid.uuid4().hex[:12]}"
        part.write_text(date.today().isoformat() + "\n", encoding="utf-8")
        try:
            os.link(part, file)  # the first task's stays
        except FileExistsError:
            pass
        finally:
            part.unlink()
    return file.read_text(encoding="utf-8").strip()


def day_of(stores: Iterable[KVStore]) -> str | None:
    """The day that chat templates were told of when stores were extracted.

    Raises:
        StoreError: it is not the same one for all: no text is told two.
    """
    dates = {store.path: store.plan.fingerprint.get("date") for store in stores}
    days = {path: day for path, day in dates.items() if isinstance(day, str)}
    if len({*days.values()}) > 1:
        listed = ", ".join(f"{path} on {day}" for path, day in days.items())
        raise StoreError(
            f"chat templates write the day, and stores were extracted on different "
            f"ones ({listed}); extract them again with one data.date"
        )
    return next(iter(days.values()), None)
