"""A place where a small run or a store is damaged and read, case by case."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.bench.faults.apart import Ending, run_apart, run_imported
from experiments.bench.faults.harms import (
    HARMS,
    SWAP,
    Harm,
    do_harm,
    draw_harm,
    restore,
)
from experiments.bench.faults.subjects import (
    Reader,
    Subject,
    command,
    make_whole,
)
from experiments.bench.faults.verdicts import ERROR, differing, judge


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One file, one harm."""

    number: int
    subject: str
    kind: str
    """The file's class."""
    file: str
    """Within the place."""
    harm: Harm


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """What a reader gives and leaves when nothing is damaged."""

    seen: dict[str, str]
    """What is the same each time."""
    left: dict[str, bytes]
    """Contents of the files it leaves, by place."""


class Bed:
    """A folder with the subjects, and a place where they are read."""

    def __init__(self, folder: Path, made: Callable[[Path], Sequence[Subject]]) -> None:
        """Make the subjects that are not there, and read each undamaged, twice.

        Args:
            folder: to work in; what an earlier call made there is taken.
            made: gives the subjects for the place in which they are read.
        """
        self.folder = folder.resolve()
        self.place = self.folder / "place"
        self.subjects = made(self.place)
        for subject in self.subjects:
            make_whole(subject, self.whole(subject), self.place)
        self._undamaged = {
            (s.name, reader.name): self._read_whole(s, reader)
            for s in self.subjects
            for reader in s.readers
        }
        gc.collect()
        gc.freeze()  # or every reader copies a million objects as it collects

    def whole(self, subject: Subject) -> Path:
        """Where a subject's files are kept as they were written."""
        return self.folder / subject.name.replace(" ", "-")

    def cases(self, seed: int) -> Iterator[Case]:
        """Every class in turn, endlessly; the n-th case depends on the seed alone."""
        classes = [
            (subject, kind, files)
            for subject in self.subjects
            for kind, files in subject.files(self.whole(subject)).items()
        ]
        number = 0
        while True:
            for subject, kind, files in classes:
                draw = random.Random(f"{seed}:{number}")
                file, whole = draw.choice(files), self.whole(subject)
                harm = draw_harm(draw.choice(HARMS), file, files, whole, draw)
                yield Case(
                    number=number,
                    subject=subject.name,
                    kind=kind,
                    file=str(file.relative_to(whole)),
                    harm=harm,
                )
                number += 1

    def try_case(
        self, case: Case, only: Container[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Let readers of the subject read the damaged file; what became of it.

        Args:
            case: what is damaged.
            only: names of those who read it; None: all of the subject's.
        """
        subject = next(s for s in self.subjects if s.name == case.subject)
        readers = [r for r in subject.readers if only is None or r.name in only]
        for reader in readers:
            restore(self.whole(subject), self.place)
            do_harm(case.harm, self.place / case.file, self.place)
            yield {
                **asdict(case),
                "harm": str(case.harm),
                "reader": reader.name,
                **self._verdict(case, reader),
            }

    def _verdict(self, case: Case, reader: Reader) -> dict[str, Any]:
        whole = self._undamaged[case.subject, reader.name]
        ending = run_apart(partial(command, reader.words), self.folder)
        result = reader.observe(self.place, ending.out)
        files = [case.file, *([case.harm.other] if case.harm.kind == SWAP else [])]
        # What nobody read or wrote is as damaged as before, and no result.
        compared = [name for name in whole.seen if name not in files]
        differs = [n for n in compared if result.get(n, "") != whole.seen[n]]
        restored = all(_bytes(self.place / f) == whole.left.get(f) for f in files)
        verdict = judge(
            ending,
            [self.place / file for file in files],
            self.place,
            same=not differs,
            restored=restored,
        )
        return {
            "verdict": verdict,
            "code": ending.code,
            "differs": differs[:5],
            "said": (ending.err if ending.code != 2 else _last(ending))[-1500:],
            "seconds": round(ending.seconds, 2),
        }

    def _read_whole(self, subject: Subject, reader: Reader) -> Whole:
        results = []
        for run in (run_imported, run_apart):
            restore(self.whole(subject), self.place)
            ending = run(partial(command, reader.words), self.folder)
            if ending.code:
                raise RuntimeError(f"{reader.name} of whole files: {ending.err}")
            results.append(reader.observe(self.place, ending.out))
        unsteady = differing(*results)
        if unsteady:
            print(f"{subject.name}, {reader.name}: never the same twice: {unsteady}")
        left = {
            str(f.relative_to(self.place)): f.read_bytes()
            for f in self.place.rglob("*")
            if f.is_file()
        }
        kept = {k: v for k, v in results[0].items() if k not in unsteady}
        return Whole(seen=kept, left=left)


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() and not file.is_symlink() else None


def _last(ending: Ending) -> str:
    lines = [row for row in ending.err.splitlines() if row.startswith(ERROR)]
    return "\n".join(lines) or str(ending.out)
