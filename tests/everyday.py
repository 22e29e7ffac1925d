"""Which cases of a test run every day, where all of them together take long."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def some_daily(
    cases: Iterable[Any],
    daily: Callable[[Any], bool],
    name: Callable[[Any], str] | None = None,
) -> list[Any]:
    """Cases for ``pytest.mark.parametrize``; those that are not daily are ``slow``.

    Args:
        cases: tuples of several parameters, or the values of one.
        daily: whether the everyday suite takes a case.
        name: a case's name; None: as pytest names it.
    """
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            id=name(case) if name else None,
            marks=[] if daily(case) else [pytest.mark.slow],
        )
        for case in cases
    ]
