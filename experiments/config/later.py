"""What a record of settings leaves out: later ones, and those without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.config.parsing import plain
from student.config import LoraConfig
from student.settings.early_stop import EarlyStopConfig
from teacher.writing.config import WrittenConfig

LATER: Mapping[str, Any] = {
    "quantise": "none",
    "revision": None,
    "trust_remote_code": False,
    "compile": False,
    "make": "none",
    "transform": {},
    "date": None,
    "lora": plain(LoraConfig()),
    "trained": "all",
    "tokenizer": None,
    "optimizer": "adamw",
    "matrix_learning_rate": 0.02,
    "temperatures": [1.0],
    "temperature_rise": 0.0,
    "fade": 1.0,
    "fade_steps": 0,
    "fade_to": 0.0,
    "projected_kl": 0.0,
    "projected_chains": False,
    "likelihood_ends": "tokens",
    "batch_by": "samples",
    "on_bad_row": "stop",
    "learn": "all",
    "hold": "memory",
    "mix": {},
    "mix_temperature": 1.0,
    "tools": "refuse",
    "weight_field": "weight",
    "written": plain(WrittenConfig()),
    "learn_end": False,
    "surprise": 0.0,
    "smoothing": 0.0,
    "terms": {},
    "balance": "none",
    "balance_learning_rate": 0.025,
    "options": {},
    "begins": "last",
    "select": {},
    "domain_balance": 0.0,
    "domain_signal": "progress",
    "keep_best": None,
    "tf32": False,
    "zero_hpz_partition_size": 1,
    "early_stop": plain(EarlyStopConfig()),
    "pairs": {},
    "curriculum": "none",
}
"""Settings that earlier versions had not, with what these did: records leave them out,
so that runs and stores of these versions go on."""


def since_ever(section: Any) -> dict[str, Any]:
    """A section's settings, without later ones that are as if they were not there."""
    return {
        key: value
        for key, value in plain(section).items()
        if key not in LATER or value != LATER[key]
    }


WITHOUT_EFFECT = (
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "max_bad_steps",
    "prefetch",
    "trackers",
    "threads",
    "teacher_ranks",
    "shard",
    "export_dtype",
    "attn_implementation",
    "compile",
)
"""Settings that change nothing in the student that is trained."""


def with_effect(section: Any) -> dict[str, Any]:
    """:func:`since_ever`, without what changes nothing in the student."""
    settings = since_ever(section)
    return {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}
