"""One picture of a comparison of teachers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.report.plotting import COLOURS, ON_PALE, grid
from experiments.teacher_pool.compared import Pool

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_pool(pool: Pool) -> Figure:
    """Bits by domain, what each is worth beside the others, and how alike they are."""
    figure, (bits, worth, loss, states) = grid(4, 2, (5.0, 3.4))
    _bits(bits, pool)
    places = range(len(pool.names))
    more = [pool.without[name] - pool.all_together for name in pool.names]
    worth.barh(places, more, color=COLOURS[0])
    worth.set_yticks(list(places), list(pool.names))
    worth.invert_yaxis()
    worth.set_title("bits per character that all need more without it")
    _matrix(loss, pool, "correlation of losses", "correlation")
    _matrix(states, pool, "CKA of last hidden states", "cka_states")
    return figure


def _bits(axes: Axes, pool: Pool) -> None:
    width = 0.8 / len(pool.names)
    for m, name in enumerate(pool.names):
        heights = [pool.bits[domain][m] for domain in pool.bits]
        at = [place + m * width for place in range(len(heights))]
        colour = COLOURS[m % len(COLOURS)]
        axes.bar(at, heights, width, label=name, color=colour)
    middle = 0.4 - width / 2
    axes.set_xticks([p + middle for p in range(len(pool.bits))], list(pool.bits))
    axes.set_title("bits per character, lower is better")
    axes.legend(fontsize=7)


def _matrix(axes: Axes, pool: Pool, title: str, number: str) -> None:
    size = len(pool.names)
    cells = [[1.0] * size for _ in range(size)]
    for pair in pool.pairs:
        i, j = (pool.names.index(name) for name in pair.teachers)
        cells[i][j] = cells[j][i] = getattr(pair, number)
    axes.imshow(cells, vmin=0, vmax=1, cmap="Blues")
    axes.grid(False)
    axes.set_xticks(range(size), list(pool.names), rotation=20, ha="right")
    axes.set_yticks(range(size), list(pool.names))
    for i in range(size):
        for j in range(size):
            dark = "white" if cells[i][j] > 0.6 else ON_PALE
            axes.text(j, i, f"{cells[i][j]:.2f}", ha="center", va="center", color=dark)
    axes.set_title(title)
