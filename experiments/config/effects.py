"""Settings that decide what a student becomes, told from those that do not."""

from __future__ import annotations

from typing import Any

from experiments.config.later import since_ever

WITHOUT_EFFECT = (
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "max_bad_steps",
    "prefetch",
    "threads",
    "shard",
    "export_dtype",
)
"""Settings that change nothing in the student that is trained."""


def with_effect(section: Any) -> dict[str, Any]:
    """:func:`since_ever`, without what changes nothing in the student."""
    settings = since_ever(section)
    return {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}
