"""Measure again what docs/evidence.md tells: all of it, or some sections.

    python -m experiments.bench.evidence --list
    python -m experiments.bench.evidence --budget 120
    python -m experiments.bench.evidence --only "where text runs out"

The page's own commands are run, one after another, in one folder; what each prints
lies there under ``logs``. What has ended well is not run again, and what was stopped
goes on: the same command, given until nothing is left, measures the page.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import InputError
from experiments.bench.evidence.page import Command, Section, chosen, read_page
from experiments.record.history import read_json, write_json

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "evidence.md"
DONE = "done.json"
"""In the folder: command -> the processor seconds it took."""
STOPPED = 130


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the page is measured."""

    folder: Path
    fetch: bool
    """Whether packages and models may be brought."""

    def finished(self) -> dict[str, Any]:
        """Command -> its seconds, of those that have ended well."""
        return read_json(self.folder / DONE)

    def lacks(self, command: Command) -> str:
        """Why a command cannot be run; empty: it can."""
        if command.fetches and not self.fetch:
            return "it brings something from elsewhere; give --fetch"
        files = [f for f in command.wanted_files if not (self.folder / f).is_file()]
        return f"put {' and '.join(files)} into {self.folder}" if files else ""

    def run(self, command: Command, log: Path, minutes: float) -> tuple[int, float]:
        """Exit status and processor seconds of a command; its words go to a log.

        Args:
            command: what is run.
            log: gets what it prints, after what is there.
            minutes: of the processor, that a command which takes a budget gets.
        """
        argv = command.argv(self.folder)
        if command.resumes_by_budget and math.isfinite(minutes):
            argv += ["--budget", f"{minutes:.2f}"]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        before = _children_seconds()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as out:
            out.write(f"$ {command.text}\n")
            out.flush()
            process = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                status = process.wait()
            except KeyboardInterrupt:  # it has heard of it, too, and saves
                process.wait()
                raise
        return status, _children_seconds() - before


def main() -> int:
    """Run what is left; say what is finished, what waits, and why."""
    options = _parser().parse_args()
    try:
        sections, files = read_page(options.page)
        sections = chosen(sections, options.only)
        for command in (c for section in sections for c in section.commands):
            command.argv(options.folder)  # before any is run
    except (InputError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    bench = Bench(options.folder.resolve(), options.fetch)
    if not options.list:
        bench.folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (bench.folder / name).write_text(text, encoding="utf-8")
        try:
            failed = _work(bench, sections, 60 * options.budget)
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            return STOPPED
        print()
    _show(bench, sections)
    return 0 if options.list or not failed else 1


def _work(bench: Bench, sections: list[Section], left: float) -> bool:
    """Run what is not finished within so many processor seconds; whether any failed."""
    failed = False
    for number, section in enumerate(sections, 1):
        name = "-".join(section.title.lower().replace(",", "").split()[:8])
        log = bench.folder / "logs" / f"{name.replace('/', '-')}.txt"
        for command in section.commands:
            if command.text in bench.finished() or bench.lacks(command) or left <= 0:
                continue
            print(f"[{number}/{len(sections)}] {section.title}: {command.text}")
            status, seconds = bench.run(command, log, left / 60)
            left -= seconds
            if status == STOPPED:
                raise KeyboardInterrupt
            if status:
                failed = True
                print(f"  ended with {status}; see {log}", file=sys.stderr)
            elif left > 0 or not command.resumes_by_budget:
                done = bench.finished() | {command.text: round(seconds, 1)}
                write_json(bench.folder / DONE, done)
                print(f"  {seconds:.0f} processor seconds; {log}")
    return failed


def _show(bench: Bench, sections: list[Section]) -> None:
    from experiments.commands.tables import print_table

    finished = bench.finished()
    rows = []
    for section in sections:
        done = [finished[c.text] for c in section.commands if c.text in finished]
        waits = [c for c in section.commands if c.text not in finished]
        why = next((lack for c in waits if (lack := bench.lacks(c))), "")
        share = f"{len(done)} of {len(section.commands)}"
        rows.append([section.title, share, f"{sum(done):.0f}" if done else "", why])
    heads = ["section", "commands finished", "seconds", "what one of the others lacks"]
    print_table(f"evidence, in {bench.folder}", heads, rows, numbers_from=1)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="experiments.bench.evidence",
        description="Measure again what docs/evidence.md tells, by its own commands.",
    )
    parser.add_argument(
        "--list", action="store_true", help="say what is finished, and run nothing"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORDS",
        help="sections with these words in their titles",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        metavar="MINUTES",
        help="of the processor, after which nothing more is begun",
    )
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="also run what brings packages and models, which may ask for the network",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/evidence"),
        help="where commands run, and where texts that they name are looked for",
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="another page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
