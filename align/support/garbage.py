"""What Python's search for garbage need not look through."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 100_000
"""Objects, among which a search takes some milliseconds."""


@contextmanager
def garbage_sought_among_the_new() -> Iterator[None]:
    """Leave what there is now out of searches for garbage while the block lasts.

    accelerate searches all memory after each phase of a run, half a second each time
    among the million objects of libraries and models, which stay.

    Where few are looked through, or most are left out already, as in a program that
    froze what it loaded, nothing changes: thawing here would thaw its own too.
    """
    count = len(gc.get_objects())
    # what is frozen is counted one by one, by a walk through all of it
    few_or_theirs = count < _MANY or gc.get_freeze_count() > count
    if not few_or_theirs:
        gc.collect(1)  # the young alone: a search of all takes what is to be saved
        gc.freeze()
    try:
        yield
    finally:
        if not few_or_theirs:
            gc.unfreeze()
