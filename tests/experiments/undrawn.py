"""``mtkd`` for short runs: without pictures, three quarters of what they take, and
without a page for a browser.

    python -m tests.experiments.undrawn train my.yaml
"""

import sys


def draw_nothing() -> None:
    """For as long as this process lives; what imports matplotlib is still imported."""
    from experiments.report import alignment, figures
    from experiments.report.layout import html

    figures.draw_run = lambda run, folder=None: []  # type: ignore[assignment]
    alignment.draw_what_meets = lambda run: None  # type: ignore[assignment]
    html.html = lambda document, folder: "<!doctype html>\n"  # type: ignore[assignment]


if __name__ == "__main__":
    from experiments.cli import main

    draw_nothing()
    sys.exit(main(sys.argv[1:]))
