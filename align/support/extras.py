"""Libraries that only some runs need, and that an extra installs."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from align.errors import InputError


def bitsandbytes(purpose: str, instead: str) -> Any:
    """Import bitsandbytes, without the news that it logs on import.

    Args:
        purpose: what needs it, for the error.
        instead: what needs nothing, for the error.

    Raises:
        ValueError: it is not installed.
    """
    return _extra("bitsandbytes", "quant", purpose, f", or {instead}")


def peft(purpose: str, instead: str) -> Any:
    """Import peft, which imports bitsandbytes; see there."""
    return _extra("peft", "quant", purpose, f", or {instead}")


def gguf(purpose: str) -> Any:
    """Import gguf, which reads llama.cpp's files.

    Args:
        purpose: what needs it, for the error.

    Raises:
        ValueError: it is not installed.
    """
    return _extra("gguf", "models", purpose, "")


def _extra(name: str, extra: str, purpose: str, instead: str) -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{purpose} needs {name}: pip install 'mtkd[{extra}]'{instead}"
        ) from error
