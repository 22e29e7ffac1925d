"""What a run took: its time by phase and arm, and how often it was launched."""

from __future__ import annotations

from typing import Any

from experiments.record.course import duration
from experiments.record.history import attempts
from experiments.record.run_dir import MAIN, RunDir
from experiments.report.layout.document import Block, Items, Paragraph, Section, Table


def time_sections(run: RunDir) -> list[Section]:
    """The report's section on time and memory; none where nothing was noted."""
    rows = _rows(run)
    lines = _launches(run)
    blocks: list[Block] = [Items(lines)] if lines else []
    if rows:
        said = (
            "Training alone, between a phase's first and last logged step; calibration "
            "and measurements come on top. Memory is the most that the first process "
            "had used by the end of the phase: of the GPU where there is one, else of "
            "the machine."
        )
        heads = ["arm", "phase", "steps", "time", "steps per minute", "GiB"]
        table = Table(
            title="training time and memory by arm and phase",
            heads=heads,
            rows=rows,
            numbers_from=2,
        )
        blocks += [Paragraph(said), table]
    return [Section(title="Time and memory", blocks=blocks)] if blocks else []


def _launches(run: RunDir) -> list[str]:
    lines = []
    seconds = run.summary.get("time_s")
    if seconds is not None:
        lines.append(f"The last launch took {duration(seconds)}.")
    launches = attempts(run.path)
    if launches:
        last = launches[-1]
        often = "once"
        if launches[1:]:
            often = f"{len(launches)} times, the last time"
        world = last.get("world_size") or 1
        each = "1 process" if world == 1 else f"{world} processes"
        lines.append(f"Launched {often} on {last['host']} in {each}.")
    return lines


def _rows(run: RunDir) -> list[list[str]]:
    """Per arm and phase, the steps between logged ones and what they took.

    A pause between launches is left out.
    """
    starts = [launch["time"] for launch in attempts(run.path)]
    spans: dict[tuple[str, str], list[float]] = {}
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for line in run.metrics:
        if line.get("kind") != "train" or not {"time", "step"} <= line.keys():
            continue
        key = str(line.get("arm", MAIN)), str(line.get("phase"))
        before, last[key] = last.get(key), line
        if before is None or any(before["time"] < s <= line["time"] for s in starts):
            continue
        steps, seconds = spans.setdefault(key, [0, 0.0])
        steps += line["step"] - before["step"]
        seconds += line["time"] - before["time"]
        spans[key] = [steps, seconds]
    return [
        [
            arm,
            phase,
            f"{steps:g}",
            duration(seconds),
            f"{60 * steps / seconds:.1f}",
            _gib(last[arm, phase].get("memory_gib")),
        ]
        for (arm, phase), (steps, seconds) in spans.items()
        if steps > 0 and seconds > 0
    ]


def _gib(peak: float | None) -> str:
    return "–" if peak is None else f"{peak:.2f}"
