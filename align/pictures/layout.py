"""Where the parts of a picture stand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def laid_out(figure: Figure) -> Iterator[None]:
    """Lay a figure out once for whatever of it is saved in the block.

    Else each file is drawn twice, at first only to lay it out.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)
    try:
        yield
    finally:
        figure.set_layout_engine(engine)
