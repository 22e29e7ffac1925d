"""Say which part of the config an error is about, and what was being done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from align.errors import MtkdError


@contextmanager
def prefix_errors(place: str) -> Iterator[None]:
    """Put a place in front of what the user is told to put right inside this block.

    Args:
        place: a part of the config, such as ``teachers.gpt2``.

    Raises:
        MtkdError: as raised inside, of the same class, with the place.
    """
    try:
        yield
    except MtkdError as error:
        error.args = (f"{place}: {error}", *error.args[1:])
        raise


@contextmanager
def during(work: str) -> Iterator[None]:
    """Note what was being done when a program failed inside this block.

    A mistake of ours or of a plugin says little by itself (``mat1 and mat2 shapes
    cannot be multiplied``); its notes tell where in the run it happened.

    Args:
        work: what is being done, such as ``phase 'dual'``.

    Raises:
        Exception: as raised inside, with a note.
    """
    try:
        yield
    except Exception as error:
        error.add_note(f"in {work}")
        raise
