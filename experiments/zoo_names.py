"""Embedded models by their names in a config."""

from __future__ import annotations

import torch

from align.errors import InputError
from experiments.config import Config

ZOO = "zoo:"
"""Prefix of embedded models: ``zoo:gpt2-prose``, or ``zoo:tiny/gpt2-prose``."""


def resolve_zoo(name: str) -> str:
    """The folder of a ``zoo:`` name; any other name as it is.

    Raises:
        ValueError: the zoo has no such model, or it is not built.
    """
    if not name.startswith(ZOO):
        return name
    from teacher.zoo import zoo_path

    scale, model = _parts(name)
    try:
        return str(zoo_path(model, scale=scale))
    except FileNotFoundError as error:
        raise InputError(str(error)) from None


def build_zoo_models(config: Config) -> None:
    """Build the embedded models that a config names and that are not cached."""
    named = [config.student.model, *(t.model for t in config.teachers.values())]
    wanted = [name for name in named if name.startswith(ZOO)]
    if not wanted:
        return
    from teacher.zoo import build_zoo

    by_scale: dict[str, list[str]] = {}
    for name in wanted:
        scale, model = _parts(name)
        by_scale.setdefault(scale, []).append(model)
    threads = torch.get_num_threads()
    for scale, names in by_scale.items():
        build_zoo(names, scale=scale)
    torch.set_num_threads(threads)


def _parts(name: str) -> tuple[str, str]:
    """Scale and model of a ``zoo:`` name."""
    scale, _, model = name.removeprefix(ZOO).rpartition("/")
    return scale or "default", model
