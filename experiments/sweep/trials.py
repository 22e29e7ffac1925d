"""The trials of a sweep: their names, their runs, and what became of each."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.support.whole_file import write_whole
from experiments.config.parsing import load_mapping
from experiments.config.tree import Config
from experiments.record.history import STATE, read_json
from experiments.record.run_dir import MAIN, SUMMARY, written_so_far
from experiments.record.which_run import CONFIG
from experiments.run.measures.students import with_bits
from experiments.sweep.space import SEED, Settings
from student.evaluators.base import mean_of

TRIALS = "trials"
"""Folder of a sweep's runs."""
NOTES = "notes"
"""Folder of what is noted of each trial."""
_LONGEST = 100
"""Characters of a trial's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of a sweep."""

    name: str
    settings: Settings
    config: Config

    @property
    def run_dir(self) -> Path:
        """Its run's folder."""
        return self.config.run_dir

    @property
    def note(self) -> Path:
        """The file of what is noted of it."""
        return self.run_dir.parent.parent / NOTES / f"{self.name}.json"

    @property
    def group(self) -> Settings:
        """What it has in common with the same settings under other seeds."""
        return tuple((key, value) for key, value in self.settings if key != SEED)

    @property
    def finished(self) -> bool:
        """Whether its run is whole."""
        if not (self.run_dir / SUMMARY).is_file():
            return False
        return bool(read_json(self.run_dir / STATE).get("finished"))

    def noted(self) -> dict[str, Any]:
        """What is noted of it: ``state``, ``error``, ``paused_at``, ``tries``."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a note is no more than its last try
            return {}
        return note if isinstance(note, dict) else {}

    def check_noted(self) -> None:
        """See that what is noted is of these settings and this seed.

        Raises:
            InputError: its folder holds another trial.
        """
        note = self.noted()
        mine = json.loads(_json(dict(self.settings))) | {SEED: self.config.run.seed}
        seed = note.get("seed", self._seed_of_run(mine[SEED]))
        known = note.get("settings", mine) | {SEED: seed}
        differs = [
            f"{key} is {_json(mine.get(key))}, but was {_json(known.get(key))}"
            for key in dict.fromkeys([*mine, *known])
            if _json(mine.get(key)) != _json(known.get(key))
        ]
        if differs:
            raise InputError(
                f"trial {self.name}: {'; '.join(differs)} in what {self.note} "
                "or its run tells; its numbers would stand for this trial's. Give "
                "this sweep another --name, or try both values, such as "
                "run.seed=[0,1]"
            )

    def _seed_of_run(self, otherwise: int) -> Any:
        """What its run's own config says, where a note is lost or does not."""
        file = self.run_dir / CONFIG
        if not file.is_file():
            return otherwise
        run = load_mapping(file).get("run")
        return run.get("seed", otherwise) if isinstance(run, dict) else otherwise

    def write_note(self, **changes: Any) -> None:
        """Add to what is noted of it; for who holds it."""
        self.note.parent.mkdir(parents=True, exist_ok=True)
        note = {
            "name": self.name,
            "settings": dict(self.settings),
            "seed": self.config.run.seed,
        }
        text = json.dumps(note | self.noted() | changes, indent=2, default=str)
        write_whole(self.note, text + "\n")

    @property
    def state(self) -> str:
        """``done``, ``failed``, ``paused``, ``stopped``, ``started`` or ``new``."""
        if self.finished:
            return "done"
        state = str(self.noted().get("state", "new"))
        return "new" if state == "done" else state  # its run was removed

    def reached(self, steps: int) -> bool:
        """Whether it was paused after so many steps, or went to its end."""
        if self.finished:
            return True
        paused = self.noted().get("paused_at") or 0
        return int(paused) >= steps and self.run_dir.is_dir()


def measured(trial: Trial, steps: int | None = None) -> dict[str, dict[str, float]]:
    """Every metric of a trial's student by part; nothing where none was measured.

    Args:
        trial: any.
        steps: within its phase after exactly so many; None: of its finished run.
    """
    if steps is None:
        return _finally(trial.run_dir) if trial.finished else {}
    metrics: dict[str, dict[str, float]] = {}
    if trial.run_dir.is_dir():
        for line in written_so_far(trial.run_dir).lines("watch", MAIN):
            if line["step"] == steps:  # an earlier one is no number of this rung
                metrics = line["metrics"]
    return metrics


def _finally(run_dir: Path) -> dict[str, dict[str, float]]:
    summary = read_json(run_dir / SUMMARY)
    for phase in summary.get("phases", []):
        if phase["name"] == summary.get("final_phase"):
            return with_bits(phase.get("metrics") or {}, phase["bpc"])
    return {}  # every phase was rolled back


def number(metrics: Mapping[str, Mapping[str, float]], wanted: str) -> float | None:
    """The one number that stands for ``METRIC`` or ``METRIC:PART``.

    Returns:
        None where it was not measured, or is not finite.
    """
    metric, _, part = wanted.partition(":")
    parts = metrics.get(metric, {})
    value = parts.get(part) if part else mean_of(parts)
    return value if value is not None and math.isfinite(value) else None


def names_of(every: Sequence[Settings]) -> list[str]:
    """A folder's name for each of some settings, different from the others'.

    A key is called by its last word where no other tried key ends in the same one. What
    is too long, or has the name of another, gets a digest of its settings.
    """
    keys = list(dict.fromkeys(key for settings in every for key, _ in settings))
    last = [key.rpartition(".")[2] for key in keys]
    short = {k: w if last.count(w) == 1 else k for k, w in zip(keys, last, strict=True)}
    plain = [
        "_".join(f"{_word(short[k])}-{_word(value)}" for k, value in settings)
        for settings in every
    ]
    lowered = [name.lower() for name in plain]  # some file systems see no capitals
    return [
        _with_digest(name, settings)
        if len(name) > _LONGEST or lowered.count(name.lower()) > 1
        else name
        for name, settings in zip(plain, every, strict=True)
    ]


def _with_digest(name: str, settings: Settings) -> str:
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9]}-{digest}"


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    sign = "-" if re.match(r"\s*-\.?\d", text) else ""  # -0.1 is not 0.1
    return sign + (re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "none")


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
