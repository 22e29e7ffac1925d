"""What the student writes, before and after a run, as the report shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.record.run_dir import RunDir

if TYPE_CHECKING:
    from rich.text import Text

MOMENTS = ("before", "after")


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, and what the student made of it."""

    prompt: str
    before: str
    """By the student that the run began with."""
    after: str
    """By the run's student."""


def samples(run: RunDir) -> list[Sample]:
    """Read a run's samples; earlier versions have left none."""
    entries: Any = run.summary.get("samples") or []
    return [Sample(e["prompt"], e["before"], e["after"]) for e in entries]


def sample_blocks(run: RunDir) -> list[str]:
    """Lay them out as Markdown, whose fences no text can close."""
    lines = []
    for sample in samples(run):
        ticks = re.findall("`+", sample.prompt + sample.before + sample.after)
        fence = "`" * max([3, *(len(run_of) + 1 for run_of in ticks)])
        for moment in MOMENTS:
            text = f"{sample.prompt}|{getattr(sample, moment)}"
            lines += [f"*{moment}*", f"{fence}text\n{text}\n{fence}"]
    if not lines:
        return []
    return [
        "## What the student writes",
        "The student before the run and after it, each going on at `|` with the "
        "likeliest token every time. `mtkd generate` and `mtkd chat` ask it for more.",
        *lines,
    ]


def sample_lines(run: RunDir) -> Iterator[Text]:
    """Lay them out for the console, a few lines each."""
    from rich.text import Text

    for sample in samples(run):
        prompt = one_line(sample.prompt)
        yield Text("what the student writes after ").append(prompt, "bold")
        for moment in MOMENTS:
            yield Text(f"  {moment:6} ").append(one_line(getattr(sample, moment)))


def one_line(text: str, most: int = 120) -> str:
    """A text in one line that says where lines end."""
    marked = text.replace("\n", "⏎")
    shown = "".join(c if c.isprintable() else "�" for c in marked)
    return shown if len(shown) <= most else shown[: most - 1] + "…"
