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
    lines = [*_launches(run), *_memory(run)]
    blocks: list[Block] = [Items(lines)] if lines else []
    if rows:
        said = (
            "Training alone, between a phase's first and last logged step; calibration "
            "and measurements come on top."
        )
        heads = ["arm", "phase", "steps", "time", "steps per minute"]
        table = Table(
            title="training time by arm and phase",
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


def _memory(run: RunDir) -> list[str]:
    """Peaks, where the run noted them."""
    names = {"host_bytes": "memory of the machine", "gpu_bytes": "memory of the GPU"}
    noted = run.summary.get("peak_memory") or {}
    return [
        f"The first process used {noted[key] / 2**30:.2f} GiB of {name} at most."
        for key, name in names.items()
        if noted.get(key)
    ]


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
        [arm, phase, f"{steps:g}", duration(seconds), f"{60 * steps / seconds:.1f}"]
        for (arm, phase), (steps, seconds) in spans.items()
        if steps > 0 and seconds > 0
    ]
