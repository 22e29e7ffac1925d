"""Which teachers texts were given to, where not every one reads all, and what that
saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.record.course import duration
from experiments.record.run_dir import RunDir, teachers_seconds
from experiments.report.layout.document import Block, Paragraph, Table
from experiments.report.plotting import (
    COLOURS,
    by_phase,
    grid,
    keys_of,
    mark_phases,
    on_one_axis,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAID = (
    "fuse.choice gives each text to some teachers; the others do not read it. What "
    "that saved is reckoned by what each teacher took for the texts that it read, on "
    "the first process."
)


def asked_blocks(run: RunDir) -> list[Block]:
    """A table of who was asked in each phase; none where all teachers read all."""
    rows = [
        [
            phase,
            ", ".join(f"{name} {share:.1%}" for name, share in choice.asked.items()),
            f"{choice.teachers_s:.2f}",
            f"{choice.saved_s / choice.steps:.2f}",
            f"{choice.saved:.1%}",
            duration(choice.saved_s),
        ]
        for phase, choice in run.choices().items()
    ]
    if not rows:
        return []
    heads = [
        "phase",
        "texts asked about",
        "teachers' s/step",
        "saved/step",
        "saved",
        "in all",
    ]
    title = "texts by teacher, and the time that was saved"
    table = Table(title=title, heads=heads, rows=rows, numbers_from=2)
    return [Paragraph(_SAID), table]


def draw_asked(run: RunDir) -> Figure | None:
    """Draw each teacher's share of the texts, and teachers' seconds a step with and
    without choice; None where all teachers read all."""
    lines = [each for each in on_one_axis(run, "train") if each[1].get("asked")]
    if not lines:
        return None
    figure, (shares, seconds) = grid(2, columns=2, size=(5.4, 3.0))
    teachers = keys_of(line["asked"] for _, line in lines)
    for number, group in enumerate(by_phase(lines)):
        x = [place for place, _ in group]
        first = number == 0
        for index, name in enumerate(teachers):
            if any(name in line["asked"] for _, line in group):
                shares.plot(
                    x,
                    [line["asked"].get(name, 0.0) for _, line in group],
                    marker=".",
                    color=COLOURS[index % len(COLOURS)],
                )
        spent = [teachers_seconds(line) for _, line in group]
        whole = [
            taken + line["saved_s"]
            for taken, (_, line) in zip(spent, group, strict=True)
        ]
        kept = "as it was" if first else None
        seconds.plot(x, spent, marker=".", color=COLOURS[0], label=kept)
        asked = "had all been asked" if first else None
        seconds.plot(x, whole, linestyle="--", color=COLOURS[1], label=asked)
    for index, name in enumerate(teachers):  # those of later phases, too
        shares.plot([], [], color=COLOURS[index % len(COLOURS)], label=name)
    shares.set_title("share of the texts", loc="left")
    shares.set_ylim(-0.02, 1.02)
    seconds.set_title("teachers' seconds a step", loc="left")
    seconds.set_ylim(bottom=0)
    for axes in (shares, seconds):
        mark_phases(axes, lines, label=axes is shares)
        axes.set_xlabel("optimiser step")
        axes.legend(frameon=False, fontsize=7)
    figure.suptitle(f"{run.name}: which teachers were asked")
    return figure
