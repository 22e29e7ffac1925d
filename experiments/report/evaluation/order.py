"""Which texts a curriculum had read when, how often, and which never."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.record.run_dir import RunDir
from experiments.report.layout.document import Block, Items, Paragraph, Section, Table
from experiments.report.plotting import COLOURS, grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAID = (
    "Texts came as data.curriculum says, in every arm alike. How hard each is was "
    "scored as the phase began."
)


def order_sections(run: RunDir) -> list[Section]:
    """The report's section on the order of texts; none where each had its turn."""
    latest = {str(line["phase"]): line for line in run.lines("order")}
    if not latest:
        return []
    rows, never = [], []
    for phase, line in latest.items():
        reads, left = line["reads"], line["never"]
        count = sum(of_domain["texts"] for of_domain in left.values())
        rows.append(
            [
                phase,
                line["curriculum"],
                line["difficulty"],
                f"{reads['mean']:.2f}",
                f"{reads['least']}",
                f"{reads['most']}",
                f"{count}",
            ]
        )
        never += [
            f"{phase}, {domain}: {of_domain['texts']} texts were never read, such as "
            f"{', '.join(of_domain['first'])}"
            for domain, of_domain in left.items()
        ]
    heads = ["phase", "curriculum", "hard by", "times read", "least", "most", "never"]
    table = Table(
        title="how often texts were read",
        heads=heads,
        rows=rows,
        numbers_from=3,
    )
    blocks: list[Block] = [Paragraph(_SAID), table]
    return [
        Section(
            title="Which texts were read",
            blocks=[*blocks, *([Items(never)] if never else [])],
        )
    ]


def draw_order(run: RunDir) -> Figure | None:
    """Draw shares of difficulty and of domains along each phase; None without any."""
    latest = {str(line["phase"]): line for line in run.lines("order")}
    if not latest:
        return None
    figure, panels = grid(2 * len(latest), columns=2, size=(4.4, 2.8))
    for number, (phase, line) in enumerate(latest.items()):
        bands = list(zip(*line["bands"], strict=True))
        names = ["easiest fifth", *("" for _ in bands[2:]), "hardest fifth"]
        sides = (
            (f"{phase}: by {line['difficulty']}", bands, names),
            (f"{phase}: by domain", [*line["domains"].values()], [*line["domains"]]),
        )
        for axes, (title, shares, labels) in zip(
            panels[2 * number :], sides, strict=False
        ):
            parts = len(shares[0])
            places = [100 * (part + 0.5) / parts for part in range(parts)]
            colours = [COLOURS[n % len(COLOURS)] for n in range(len(shares))]
            axes.stackplot(places, *shares, labels=labels, colors=colours)
            axes.set_title(title, loc="left")
            axes.set_ylim(0, 1)
            axes.set_xlabel("% of the phase", fontsize=8)
            # Under the axes: every place in them is filled.
            axes.legend(
                frameon=False,
                fontsize=7,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.18),
                ncols=4,
            )
        panels[2 * number].set_ylabel("share of the texts read", fontsize=8)
    return figure
