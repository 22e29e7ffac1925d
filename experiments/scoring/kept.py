"""Scores of a phase's texts on the disk: measured in parts, kept whole.

A pass over many texts takes long, so that what is measured is written part by part: a
pass that was stopped goes on. Whole scores carry digests and a signature as checkpoints
do, and a key of all that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from align.text.documents import TextSample
from experiments.scoring.scorer import Columns, Scorer, batches_of, joined
from student.checkpoint import (
    CheckpointError,
    full_disk_named,
    mark_complete,
    put_in_place,
    read_complete,
)
from student.curriculum.scores import BY_TEACHER, Scores
from student.loop.engine import Engine

PART = 32
"""Batches of a part, which is what a killed process loses."""
FILE = "scores.safetensors"
"""In the folder of whole scores: the columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreKeeper:
    """Where one pass over texts is kept, and who takes part."""

    folder: Path
    key: str
    """A digest of what the numbers depend on: models, texts, how they are read."""
    engine: Engine
    """All processes; each measures parts of its own."""
    step: int = 0
    """Optimiser steps of the phase that the student has done."""
    together: bool = False
    """Every process measures everything: a teacher is split over all of them."""
    sign: Callable[[Path], None] = lambda folder: None
    """Given finished scores on the first process, before they have their name."""
    check_signed: Callable[[Path], None] = lambda folder: None
    """Raises where scores are not to be taken."""
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda parts: parts

    def scored(self, scorer: Scorer, samples: Sequence[TextSample]) -> Scores:
        """The scores of all samples, read if they are there, else measured and kept.

        Args:
            scorer: measures.
            samples: N texts.

        Raises:
            CheckpointError: what is kept is damaged, or another phase's.
            OSError: the disk is full.
            NonFiniteTeacherError: what a teacher gives is not finite.
        """
        if not self.engine.from_main(lambda: read_complete(self.folder)):
            self._measure(scorer, samples)
        return self.read(samples)

    def read(self, samples: Sequence[TextSample], key: bool = True) -> Scores:
        """The scores that are kept of these samples.

        Args:
            samples: N texts.
            key: whether the key must be the one that is expected.

        Raises:
            CheckpointError: there are none, they are damaged, or of other texts.
        """
        state = read_complete(self.folder, digests=True)
        if state is None:
            raise CheckpointError(
                f"there are no scores in {self.folder}, by which the texts of a phase "
                "are ordered; delete the folders of this phase, beside it, to score "
                "and train it again"
            )
        self.check_signed(self.folder)
        if state["texts"] != len(samples) or (key and state["key"] != self.key):
            raise CheckpointError(
                f"the scores in {self.folder} are of other texts, models or settings "
                "than this run's; delete the folder to measure them again"
            )
        with safe_open(self.folder / FILE, "pt") as file:
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Scores(
            domains=[sample.domain for sample in samples],
            columns=columns,
            teachers=state["teachers"],
            step=state["step"],
        )

    @property
    def _part(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.part")

    def _measure(self, scorer: Scorer, samples: Sequence[TextSample]) -> None:
        batches = batches_of(samples)
        parts = [batches[at : at + PART] for at in range(0, len(batches), PART)]
        self._part.mkdir(parents=True, exist_ok=True)
        measured: dict[int, Columns] = {}

        def measure() -> None:
            mine = [n for n in range(len(parts)) if self._is_mine(n)]
            with full_disk_named(self.folder):
                for number in self.progress(mine):
                    measured[number] = self._one(scorer, samples, number, parts[number])

        self.engine.together(measure)
        every: dict[int, Columns] = {}
        for of_process in self.engine.gather(measured):
            every |= of_process
        whole = joined(_flat(parts, every), len(samples))
        self.engine.from_main(lambda: self._finish(whole, list(scorer.teachers)))

    def _is_mine(self, number: int) -> bool:
        engine = self.engine
        return self.together or number % engine.world_size == engine.rank

    def _one(
        self,
        scorer: Scorer,
        samples: Sequence[TextSample],
        number: int,
        batches: Sequence[Sequence[int]],
    ) -> Columns:
        """One part, as it was kept where it was."""
        file = self._part / f"part-{number:05d}.safetensors"
        if not self.together and (kept := _read_part(file, self.key)) is not None:
            return kept
        texts = [[samples[i].text for i in batch] for batch in batches]
        every = [scorer(batch) for batch in texts]
        columns = {name: torch.cat([each[name] for each in every]) for name in every[0]}
        if not self.together or self.engine.is_main:
            _write_part(file, self.key, columns)
        return columns

    def _finish(self, columns: Columns, teachers: Sequence[str]) -> None:
        """Put all in one file, which appears whole or not at all."""
        by_teacher = BY_TEACHER & columns.keys()
        state = {
            "key": self.key,
            "texts": len(columns["length"]),
            "teachers": teachers if by_teacher else [],
            "step": self.step,
        }
        whole = self.folder.with_name(f".{self.folder.name}.whole")
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        with full_disk_named(self.folder):
            save_file(dict(columns), whole / FILE)
            mark_complete(whole, state)
        self.sign(whole)
        put_in_place(whole, self.folder)
        shutil.rmtree(self._part, ignore_errors=True)


def _flat(
    parts: Sequence[Sequence[Sequence[int]]], measured: Mapping[int, Columns]
) -> Iterator[tuple[Sequence[int], Columns]]:
    for number, batches in enumerate(parts):
        yield [i for batch in batches for i in batch], measured[number]


def _write_part(file: Path, key: str, columns: Columns) -> None:
    half = file.with_suffix(".half")
    about = {"key": key, "digest": _digest(columns)}
    save_file(dict(columns), half, metadata={"about": json.dumps(about)})
    half.replace(file)


def _read_part(file: Path, key: str) -> dict[str, Tensor] | None:
    """A part that was measured for this key; None where it is to be measured again."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads((opened.metadata() or {}).get("about", "{}"))
            columns = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError):
        return None
    right = about == {"key": key, "digest": _digest(columns)}
    return columns if right else None


def _digest(columns: Columns) -> str:
    return hashlib.sha256(save(dict(columns))).hexdigest()
