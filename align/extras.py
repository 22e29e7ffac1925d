"""Libraries that only some runs need, and that an extra installs."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from align.errors import InputError


def bitsandbytes(what: str, instead: str) -> Any:
    """Import bitsandbytes, without the news that it logs on import.

    Args:
        what: needs it, for the error.
        instead: what needs nothing, for the error.

    Raises:
        ValueError: it is not installed.
    """
    return _extra("bitsandbytes", what, instead)


def peft(what: str, instead: str) -> Any:
    """Import peft, which imports bitsandbytes; see there."""
    return _extra("peft", what, instead)


def _extra(name: str, what: str, instead: str) -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{what} needs {name}: pip install 'mtkd[quant]', or {instead}"
        ) from error
