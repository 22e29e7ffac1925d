"""What a router could gain with a bed's teachers, beside what its students gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bench.quality.table import Outcome, difference
from experiments.bench.quality.train import Setup
from experiments.record.history import read_json
from experiments.record.run_dir import SUMMARY
from experiments.report.plotting import COLOURS, grid

EQUAL = "equal"
"""The arm of all teachers that routes nothing."""
_Room = Mapping[str, Any]
"""Of :meth:`experiments.routing_room.read.RoomByDomain.plain`."""


def room_of(bed: Setup, outcomes: Sequence[Outcome], seed: int) -> _Room | None:
    """What a run of all teachers said beforehand; None where there is none such, or
    nothing to hold against its arm of equal weights.

    Args:
        bed: where the runs are.
        outcomes: arms that are trained.
        seed: of the run that is read; teachers are the same for all.
    """
    if not any(outcome.arm.name == EQUAL for outcome in outcomes):
        return None
    path = bed.folder / EQUAL / f"seed-{seed}" / SUMMARY
    said = read_json(path).get("routing_room") if path.is_file() else None
    return said or None


def gains(
    outcomes: Sequence[Outcome],
) -> dict[str, dict[str | None, tuple[float, ...]]]:
    """What every other arm of the same teachers saved over equal weights.

    Returns:
        Arm -> domain, None for the mean -> per cent of the bits of equal weights that
        were saved, and the 95 % interval: low, high.
    """
    equal = next(outcome for outcome in outcomes if outcome.arm.name == EQUAL)
    saved: dict[str, dict[str | None, tuple[float, ...]]] = {}
    for outcome in outcomes:
        if outcome is equal or outcome.arm.teachers != equal.arm.teachers:
            continue
        saved[outcome.arm.name] = {
            domain: _turned(difference(outcome, equal, domain))
            for domain in (*equal.domains, None)
        }
    return saved


def _turned(change: tuple[float, ...]) -> tuple[float, ...]:
    """From what a difference adds to what it saves."""
    exact, low, high = change
    return -exact, -high, -low


def room_table(outcomes: Sequence[Outcome], room: _Room) -> list[list[str]]:
    """Heads and rows, in per cent of the bits of equal weights: what the teachers
    together could save, and what each arm's students saved."""
    columns = [*room["domains"], None]
    rows = [["saved, %", *room["domains"], "mean"]]
    for label, key in (
        ("a router could", "gain"),
        ("no weighting more than", "ceiling"),
    ):
        rows.append([label, *(f"{_could(room, c, key):.1f}" for c in columns)])
    for name, saved in gains(outcomes).items():
        cells = ["{:+.1f} [{:+.1f}, {:+.1f}]".format(*saved[c]) for c in columns]
        rows.append([name, *cells])
    return rows


def _could(room: _Room, domain: str | None, key: str) -> float:
    """Per cent, of a domain or of the mean."""
    return 100 * float((room if domain is None else room["domains"][domain])[key])


_MARKS = "osD^v"
"""Of points, the next one for each time that the colours begin again."""


def draw_room(outcomes: Sequence[Outcome], room: _Room, path: Path) -> None:
    """Draw both by domain: what teachers could save as bars, students as points."""
    columns: list[str | None] = [*room["domains"], None]
    saved = gains(outcomes)
    figure, (axes,) = grid(1, 1, (1.6 + 1.3 * len(columns), 3.2))
    for place, domain in enumerate(columns):
        could = _could(room, domain, "gain")
        label = "what a router could save" if not place else None
        axes.bar(place, could, width=0.8, color="0.85", label=label)
        axes.text(place, could, f"{could:.1f}", ha="center", va="bottom", fontsize=7)
        for number, (name, values) in enumerate(saved.items()):
            exact, low, high = values[domain]
            at = place + 0.6 * ((number + 0.5) / len(saved) - 0.5)
            colour = COLOURS[number % len(COLOURS)]
            axes.plot([at, at], [low, high], color=colour)
            shown = f"{name}: its student" if not place else None
            mark = _MARKS[number // len(COLOURS) % len(_MARKS)]
            axes.plot(at, exact, mark, color=colour, markersize=5, label=shown)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xticks(range(len(columns)), [domain or "mean" for domain in columns])
    axes.set_ylabel("bits saved over equal weights, %", fontsize=8)
    axes.grid(False, axis="x")
    axes.use_sticky_edges = False  # or a point at 0 is cut in two
    axes.margins(y=0.12)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=120)
