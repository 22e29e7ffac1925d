"""``mtkd`` for short runs: without pictures, three quarters of what they take, and
without a page for a browser."""

from collections.abc import Sequence
from importlib import reload


def draw_nothing() -> None:
    """For as long as this process lives; what imports matplotlib is still imported."""
    from experiments.report import alignment, figures
    from experiments.report.layout import html

    figures.draw_run = lambda run, folder=None: []  # type: ignore[assignment]
    alignment.draw_what_meets = lambda run: None  # type: ignore[assignment]
    html.html = lambda document, folder: "<!doctype html>\n"  # type: ignore[assignment]


def drawing(words: Sequence[str]) -> int:
    """``mtkd`` in a process that was forked off one which draws nothing: it does."""
    from experiments import cli
    from experiments.report import alignment, figures
    from experiments.report.layout import html

    for module in (alignment, figures, html):
        reload(module)
    return cli.main(list(words))
