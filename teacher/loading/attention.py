"""Which of transformers' implementations computes a model's attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from align.errors import InputError

AUTO = "auto"
"""What transformers takes by itself."""


def attention_options(implementation: str) -> dict[str, Any]:
    """What ``from_pretrained`` is told; nothing where the choice is left to it."""
    if implementation == AUTO:
        return {}
    return {"attn_implementation": implementation}


@contextmanager
def said_of_attention(name: str, implementation: str) -> Iterator[None]:
    """Say what to do where an implementation is not installed, or not for this model.

    Args:
        name: what the user calls the model.
        implementation: that was asked for.

    Raises:
        InputError: as transformers says, within the block.
    """
    try:
        yield
    except (ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        words = (implementation, "ttention implementation", "lashAttention", "flash")
        if implementation == AUTO or not any(word in str(error) for word in words):
            raise
        raise InputError(
            f"model {name!r}: attn_implementation={implementation} cannot be used: "
            f"{reason}; install what it asks for, or set attn_implementation=sdpa or "
            "eager, which every supported model has"
        ) from error
