"""What the student writes, before and after a run, as the report shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from align.foreign.quote import visible
from experiments.record.run_dir import RunDir
from experiments.report.layout.document import Paragraph, Phrase, Sample, Section, code

if TYPE_CHECKING:
    from rich.text import Text

MOMENTS = ("before", "after")


def samples(run: RunDir) -> list[Sample]:
    """Read a run's samples; earlier versions have left none."""
    entries: Any = run.summary.get("samples") or []
    return [Sample(e["prompt"], e["before"], e["after"]) for e in entries]


def sample_sections(run: RunDir) -> list[Section]:
    """The report's section of them; none of an earlier version's run."""
    temperature = run.summary.get("samples_temperature") or 0
    how = "with the likeliest token every time"
    if temperature:
        how = f"each token drawn at a temperature of {temperature:g}"
    said: Phrase = [
        "The student before the run and after it, each going on from the same words, "
        f"{how}. ",
        code("mtkd generate"),
        " and ",
        code("mtkd chat"),
        " ask it for more.",
    ]
    shown = samples(run)
    section = Section(title="What the student writes", blocks=[Paragraph(said), *shown])
    return [section] if shown else []


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
    shown = visible(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"
