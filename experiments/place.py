"""Say which part of the config an error is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named(place: str) -> Iterator[None]:
    """Put a place in front of what goes wrong inside this block.

    Args:
        place: a part of the config, such as ``teachers.gpt2``.

    Raises:
        FileNotFoundError: as raised inside, with the place.
        ValueError: likewise.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
