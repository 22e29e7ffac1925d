"""Which run trains a model in the vocabulary of another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from align.errors import InputError
from experiments.config.parsing import load_mapping
from experiments.config.tree import Config, load_config

ORIGIN = "origin"
"""The teacher of such a run: the model as it was."""
DEFAULTS = Path(__file__).with_name("adapt.yaml")
LORA_RANK = 16

Parts = Literal["all", "embeddings", "lora"]
PARTS: tuple[Parts, ...] = ("all", "embeddings", "lora")
"""What is trained; ``lora``: embeddings and low-rank updates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of ``mtkd adapt``."""

    model: str
    """Hub name, folder, ``zoo:NAME`` or ``pkg:NAME``."""
    to: str
    """The model whose vocabulary it is to have."""
    out: Path | None = None
    """The new model's folder; None: ``adapted/MODEL-to-TO``."""
    data: Sequence[str] = ()
    """As ``data.train``."""
    steps: int | None = None
    parts: Parts = "all"
    overrides: Sequence[str] = ()
    """Of the run's settings."""

    @property
    def folder(self) -> Path:
        """Where the new model will lie."""
        named = Path("adapted") / f"{_short(self.model)}-to-{_short(self.to)}"
        return named if self.out is None else self.out.expanduser()


def config_of(request: Request) -> Config:
    """The run that trains it: a student, the model with new rows, and its teacher, the
    model as it was.

    Raises:
        ConfigError: a setting that cannot be used.
        InputError: one that the request decides.
    """
    for override in request.overrides:
        key = override.partition("=")[0]
        if key in ("student.model", "student.init", "teachers", "phases"):
            raise InputError(
                f"{key} is not to be set here: `mtkd adapt` trains the model it is "
                "given, from the model as it was, in one phase; for anything else take "
                "what it makes with --steps 0 as student.model of a config of your own"
            )
        if key == "train.steps" and request.steps is not None:
            raise InputError(
                f"--steps {request.steps} and {override} both say how long it is "
                "trained; give one of them"
            )
    settings = [f"run.name=adapt-{_safe(request.folder.name)}"]
    if request.data:
        settings.append(f"data.train=[{', '.join(request.data)}]")
    if request.steps is not None:
        settings.append(f"train.steps={request.steps}")
    if request.parts != "all":
        settings.append("student.trained=embeddings")
    if request.parts == "lora":
        settings.append(f"student.lora.rank={LORA_RANK}")
    tree = load_mapping(DEFAULTS) | {"teachers": {ORIGIN: {"model": request.model}}}
    config = load_config(tree, [*settings, *request.overrides])
    place = config.run_dir / "given"
    return load_config(tree, [*settings, *request.overrides, f"student.model={place}"])


def _short(name: str) -> str:
    """A model's name as part of a folder's."""
    return _safe(re.split(r"[/:]", name.rstrip("/"))[-1])


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).strip(".") or "model"
