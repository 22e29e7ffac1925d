"""What ``train.bf16=auto`` comes to, and which type matrix products have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from align.foreign.quote import say
from experiments.config.parsing import merge
from experiments.record.history import IDENTITY, read_json
from teacher.loading.models import checkpoint_dtypes

if TYPE_CHECKING:
    from experiments.config.sections import StudentConfig
    from experiments.config.tree import Config, PhaseConfig
    from student.config import TrainConfig
    from student.loop.engine import Engine

AUTO = "auto"
"""The value of ``train.bf16`` that asks the hardware."""


def hardware_has_bf16() -> bool:
    """Whether this process's hardware multiplies bfloat16 faster than float32.

    GPUs that have it, not those that emulate it; CPUs with tiles, see
    :func:`align.products.cpu.bf16_pays`.
    """
    from align.products.cpu import avoid_broken_amx, bf16_pays

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    avoid_broken_amx()
    return bf16_pays()


def autocast_of(train: TrainConfig) -> torch.dtype | None:
    """The type of matrix products; None for that of the weights.

    ``fp16`` is the engine's affair and says nothing here.
    """
    assert train.bf16 != AUTO, "the hardware is asked before anything is built"
    return torch.bfloat16 if train.bf16 else None


def products(phases: Sequence[PhaseConfig]) -> str:
    """Name the type of matrix products in words, or types where phases differ."""
    types = [autocast_of(phase.train) for phase in phases]
    return " and ".join(dict.fromkeys("bfloat16" if t else "float32" for t in types))


def asks_hardware(config: Config, phases: Sequence[PhaseConfig]) -> bool:
    """Whether some part of a config leaves the choice to the hardware."""
    return AUTO in [config.train.bf16, *(phase.train.bf16 for phase in phases)]


def settle(
    config: Config, phases: Sequence[PhaseConfig], bf16: bool
) -> tuple[Config, list[PhaseConfig]]:
    """Put an answer in the place of every ``auto``.

    Args:
        config: the run's.
        phases: resolved from it.
        bf16: the answer.
    """
    partial = {
        name: merge(part, {"train": {"bf16": bf16}})
        if part.get("train", {}).get("bf16") == AUTO
        else part
        for name, part in config.phase.items()
    }
    return (
        replace(config, train=_settled(config.train, bf16), phase=partial),
        [replace(phase, train=_settled(phase.train, bf16)) for phase in phases],
    )


def _settled(train: TrainConfig, bf16: bool) -> TrainConfig:
    return replace(train, bf16=bf16) if train.bf16 == AUTO else train


def answer_of_run(run_dir: Path, engine: Engine) -> bool:
    """What ``auto`` comes to in a run, for all its processes; said on stderr.

    A run that begins takes bfloat16 where every process has it. One that goes on stays
    as it began, whatever it runs on now: phases of one student share a precision.
    """
    here = all(engine.gather(hardware_has_bf16()))
    began = engine.from_main(lambda: read_json(run_dir / IDENTITY).get("bf16"))
    if engine.is_main:
        say(describe_precision(here, began))
    return here if began is None else bool(began)


def describe_precision(here: bool, began: bool | None) -> str:
    """One line for a log.

    Args:
        here: whether every process has bfloat16 now.
        began: what the run began with; None where it begins.
    """
    names = {True: "bfloat16", False: "float32"}
    said = "train.bf16=auto: matrix products in "
    if began is None:
        return said + names[here]
    said += f"{names[began]}, as this run began"
    if began == here:
        return said
    return (
        f"warning: {said}, though this hardware is better at {names[here]}; for that "
        "start another run.name"
    )


def export_dtypes(settings: StudentConfig, student: Any) -> dict[str, torch.dtype]:
    """The types of a finished student's weights, by name in the model that is saved."""
    if settings.export_dtype == "checkpoint":
        return checkpoint_dtypes(
            settings.model, settings.init == "fresh", settings.trust_remote_code
        )
    return dict.fromkeys(student.state_dict(), getattr(torch, settings.export_dtype))
