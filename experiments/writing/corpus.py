"""Text that a model writes for others to learn from: in parts, resumable, by shares.

Parts are stretches of the openings. Each is written as a whole, from a seed of its own,
so that whoever makes it, in whatever order and however often, makes the same; the last
task joins them to one file of rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from align.errors import InputError
from align.foreign.seal import DamageError, read_sealed
from align.support.whole_file import write_whole
from experiments.record.history import read_json, write_json
from experiments.record.progress import Progress
from experiments.writing.openings import Opening
from experiments.writing.writer import Writer
from teacher.writing import Way

PART = 32
"""Openings of a part: what a killed task loses at most."""
PLAN = "plan.json"
_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be written, by whom and how."""

    openings: Sequence[Opening]
    way: Way
    max_new_tokens: int
    seed: int
    facts: Mapping[str, Any]
    """Who writes, from what and how, to be kept; other facts are another corpus."""

    @property
    def parts(self) -> int:
        """How many there are."""
        return -(-len(self.openings) // PART)

    def of_part(self, number: int) -> Sequence[Opening]:
        """Its openings."""
        return self.openings[number * PART : (number + 1) * PART]

    def seed_of(self, number: int) -> int:
        """Of what is drawn in a part."""
        name = f"{self.seed} {number}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:4], "big")


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What one task did."""

    made: int = 0
    """Parts that it wrote."""
    kept: int = 0
    """Parts that were there."""
    missing: list[int] = field(default_factory=list)
    """Parts of other tasks that are not there yet; empty: the file is whole."""
    counts: dict[str, int] = field(default_factory=dict)
    """Of a whole file: its rows, and what was left out and why."""
    stopped: bool = False
    """Whether a signal ended it early."""


def parts_of(out: Path) -> Path:
    """The folder in which a file's parts are until all are there."""
    return out.with_name(f"{out.name}.parts")


def facts_of(out: Path) -> Path:
    """The file that says how a whole file came to be."""
    return out.with_name(f"{out.name}.json")


def write_corpus(
    out: Path, plan: Plan, writer: Writer, numbers: Sequence[int], progress: Progress
) -> Outcome:
    """Write those of some parts that are missing, and join them when all are there.

    Args:
        out: the file of rows, one JSON object a line.
        plan: what to write.
        writer: the model.
        numbers: of this task's parts.
        progress: shows it, and is asked whether to stop between parts.

    Raises:
        InputError: a file or parts of another plan stand there.
        RunStopped: asked to stop; parts that are made are kept.
        OSError: no room, or no right to write; parts that are made are kept.
    """
    outcome = Outcome()
    kept = read_json(facts_of(out))
    if out.is_file() or kept:
        _check_same(out, kept.get("plan", {}), plan)
    folder = parts_of(out)
    if out.is_file() and kept:
        outcome.kept, outcome.counts = len(numbers), kept["counts"]
        if folder.is_dir():  # killed, or busy, putting the parts away
            with FileLock(_lock(folder)):
                shutil.rmtree(folder, ignore_errors=True)
        return outcome
    if (folder / PLAN).exists():
        _check_same(folder, read_json(folder / PLAN), plan)
    else:
        write_json(folder / PLAN, _facts(plan))
    wanted = [number for number in numbers if _rows(folder, number) is None]
    outcome.kept = len(numbers) - len(wanted)
    for number in progress.over(wanted, "writing", len(wanted)):
        write_json(_part(folder, number), _written(plan, number, writer))
        outcome.made += 1
    with FileLock(_lock(folder)):
        _join(out, plan, outcome)
    return outcome


def _written(plan: Plan, number: int, writer: Writer) -> dict[str, Any]:
    """The rows of a part, and the openings that the model cannot read."""
    openings, skipped = [], []
    for opening in plan.of_part(number):
        try:
            openings.append((opening, opening.ids(writer)))
        except InputError as error:
            skipped.append(f"{opening.id}: {error}")
    seed = plan.seed_of(number)
    texts = writer.texts(
        [ids for _, ids in openings],
        plan.way,
        max_new_tokens=plan.max_new_tokens,
        seed=seed,
    )
    rows = [
        {
            **opening.row(written.text),
            "weight": round(written.weight, 6),
            "stopped": written.stopped,
            "domain": opening.domain,
            "from": opening.id,
            "by": plan.facts["by"],
            "digest": plan.facts["weights"],
            "writer": plan.facts["writer"],
            "seed": seed,
        }
        for (opening, _), of_one in zip(openings, texts, strict=True)
        for written in of_one
    ]
    return {"rows": rows, "skipped": skipped}


def _join(out: Path, plan: Plan, outcome: Outcome) -> None:
    """Make one file of all parts, if they are there; of equal texts the first stays."""
    folder = parts_of(out)
    if not folder.is_dir():  # another task has
        outcome.counts = read_json(facts_of(out)).get("counts", {})
        return
    parts = [_rows(folder, number) for number in range(plan.parts)]
    outcome.missing = [number for number, part in enumerate(parts) if part is None]
    if outcome.missing:
        return
    lines: list[str] = []
    known: set[str] = set()
    counts = {"rows": 0, "twice": 0, "empty": 0, "skipped": 0}
    for part in parts:
        assert part is not None, "none is missing"
        counts["skipped"] += len(part["skipped"])
        for row in part["rows"]:
            text, whole = _text_of(row)
            if not text.strip():
                counts["empty"] += 1
            elif whole in known:
                counts["twice"] += 1
            else:
                known.add(whole)
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    counts["rows"] = len(lines)
    # The facts first: a file without them would be taken for another's.
    write_json(facts_of(out), {"plan": _facts(plan), "counts": counts})
    write_whole(out, "".join(lines))
    shutil.rmtree(folder)
    outcome.counts = counts


def _text_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """What a model wrote, and with what stood before it."""
    if "messages" in row:
        return row["messages"][-1]["content"], json.dumps(row["messages"])
    if "completion" in row:
        return row["completion"], row["prompt"] + row["completion"]
    return row["text"], row["text"]


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def _rows(folder: Path, number: int) -> dict[str, Any] | None:
    """A part; None where it is not there, or damaged, and so to be written again."""
    try:
        content, _ = read_sealed(_part(folder, number))
    except (FileNotFoundError, DamageError):
        return None
    return content


def _facts(plan: Plan) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "openings": len(plan.openings),
        "max_new_tokens": plan.max_new_tokens,
        "seed": plan.seed,
        **plan.facts,
    }


def _check_same(there: Path, before: Mapping[str, Any], plan: Plan) -> None:
    wanted = json.loads(json.dumps(_facts(plan)))
    changed = [
        f"{name} was {str(before.get(name))[:40]} and is {str(wanted.get(name))[:40]}"
        for name in {**before, **wanted}
        if before.get(name) != wanted.get(name)
    ]
    if changed:
        raise InputError(
            f"{there} holds other text: {'; '.join(changed[:3])}; give another --out, "
            "or delete it"
        )
