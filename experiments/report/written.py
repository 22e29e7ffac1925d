"""What was written while phases trained, how it looked, and what it took."""

from __future__ import annotations

from typing import Any

from experiments.record.run_dir import MAIN, RunDir
from experiments.report.layout.document import Paragraph, Section, Table

_SAID = (
    "Texts that stood in for given ones (data.written), from the first buffer to the "
    "last. Length is in tokens; repetition is the share of a text's runs of four "
    "tokens that it held already. Arms without teachers, CE only among them, read the "
    "texts as they were given."
)


def written_sections(run: RunDir) -> list[Section]:
    """The report's section on writing; none where nothing was written."""
    buffers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    spent: dict[tuple[str, str], list[float]] = {}
    for line in run.metrics:
        key = str(line.get("arm", MAIN)), str(line.get("phase"))
        if line.get("kind") == "written":
            buffers.setdefault(key, []).append(line)
        elif line.get("kind") == "train" and "step_s" in line:
            steps = spent.setdefault(key, [0.0, 0.0])
            steps[0] += line.get("parts_s", {}).get("written", 0.0)
            steps[1] += line["step_s"]
    if not buffers:
        return []
    rows = []
    for (arm, phase), lines in buffers.items():
        writing, whole = spent.get((arm, phase), (0.0, 0.0))
        rows.append(
            [
                arm,
                phase,
                str(len(lines)),
                f"{sum(line['texts'] for line in lines)}",
                _course(lines, "length", "{:.0f}"),
                _course(lines, "repetition", "{:.0%}"),
                f"{writing / whole:.0%}" if whole else "–",
            ]
        )
    table = Table(
        title="texts written by arm and phase",
        heads=["arm", "phase", "buffers", "texts", "length", "repetition", "of a step"],
        rows=rows,
        numbers_from=2,
    )
    return [Section(title="What was written", blocks=[Paragraph(_SAID), table])]


def _course(lines: list[dict[str, Any]], name: str, shape: str) -> str:
    """The first buffer's number and the last one's."""
    known = [shape.format(line[name]) for line in lines if name in line]
    return "–" if not known else f"{known[0]} → {known[-1]}"
