"""Damage every file of a small run and of a store; nothing may go wrong in silence.

    python -m experiments.bench.faults.damage --budget 20 [--seed 0] [--keep FOLDER]

Bits are flipped, files cut, emptied, lost, swapped with another of their class, made a
link or a folder; then every command that reads a run or a store reads it. The exit
status is 1 where a result was another one and nobody said so, or where a command
failed without naming the file. The same folder goes on where an earlier call ended.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from experiments.bench.faults.bed import Bed, Case
from experiments.bench.faults.subjects import subjects
from experiments.bench.faults.two_ranks import import_all
from experiments.bench.faults.verdicts import SILENT, VERDICTS, WRONG


def main() -> int:
    """Damage and read until the budget is spent, then show what became of it."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench.faults.damage",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument(
        "--budget", type=float, default=20, help="processor minutes (20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of files and places (0)")
    parser.add_argument("--keep", type=Path, help="folder to work in and keep")
    parser.add_argument("--only", default="", help="subjects whose name holds this")
    parser.add_argument("--case", type=int, nargs="+", help="try these numbers alone")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory(prefix="mtkd-damage-") as scratch:
        return _damage(options, options.keep or Path(scratch))


def _damage(options: argparse.Namespace, folder: Path) -> int:
    import torch

    from teacher.zoo import build_zoo

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    cache = os.environ.get("MTKD_TEST_ZOO")
    zoo = build_zoo(cache_dir=cache, scale="tiny", progress=False)
    models = zoo["student"].parent
    import_all(models)
    bed = Bed(folder, partial(subjects, models=models, only=options.only))
    log = folder / f"cases-{options.seed}.jsonl"
    if options.case is not None:
        log = folder / "again.jsonl"
        log.unlink(missing_ok=True)
    known = _rows(log)
    done, spent = {row["number"] for row in known}, _seconds(known)
    with log.open("a", encoding="utf-8") as out:
        for case in bed.cases(options.seed):
            if spent > 60 * options.budget or _beyond(case, options.case):
                break
            if case.number in done or not _asked(case, options.case):
                continue
            rows = list(bed.try_case(case))
            out.write("".join(json.dumps(row) + "\n" for row in rows))
            out.flush()
            spent += _seconds(rows)
            _tell(case, rows, spent)
    return show(_rows(log))


def _tell(case: Case, rows: list[dict[str, Any]], spent: float) -> None:
    """Say what went wrong, and now and then how far it is."""
    for row in rows:
        if row["verdict"] in WRONG:
            print(_line(row), flush=True)
    if case.number % 50 == 49:
        print(f"{case.number + 1} files damaged, {spent:.0f} s", flush=True)


def _line(row: dict[str, Any]) -> str:
    why = ", ".join(row["differs"]) if row["verdict"] == SILENT else row["said"]
    where = f"{row['number']} {row['subject']}: {row['harm']} of {row['file']}"
    return f"{row['verdict']}: {where}, {row['reader']} ({row['code']}): {why[-300:]}"


def _rows(log: Path) -> list[dict[str, Any]]:
    if not log.is_file():
        return []
    return [json.loads(row) for row in log.read_text(encoding="utf-8").splitlines()]


def _seconds(rows: list[dict[str, Any]]) -> float:
    return sum(row["seconds"] for row in rows)


def _beyond(case: Case, numbers: list[int] | None) -> bool:
    return numbers is not None and case.number > max(numbers)


def _asked(case: Case, numbers: list[int] | None) -> bool:
    return numbers is None or case.number in numbers


def show(rows: list[dict[str, Any]]) -> int:
    """Print the table by class of file and reader; 1 where something went wrong."""
    for heads in (("subject", "kind"), ("subject", "reader")):
        counted: dict[str, Counter[str]] = {}
        for row in rows:
            name = " | ".join(row[head] for head in heads)
            counted.setdefault(name, Counter())[row["verdict"]] += 1
        print(f"\n| {' | '.join(heads)} | tried | {' | '.join(VERDICTS)} |")
        print("|---" * len(heads) + "|--:" * (1 + len(VERDICTS)) + "|")
        for name, count in counted.items():
            numbers = " | ".join(str(count[verdict]) for verdict in VERDICTS)
            print(f"| {name} | {count.total()} | {numbers} |")
    files = len({row["number"] for row in rows})
    wrong = sum(row["verdict"] in WRONG for row in rows)
    print(f"\n{files} files damaged, {len(rows)} readings, {wrong} silent or nameless")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
