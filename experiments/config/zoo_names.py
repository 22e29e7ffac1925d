"""Embedded models by their names in a config."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from experiments.config.tree import Config
from teacher.names import PEER, ZOO, zoo_parts


def build_zoo_models(config: Config) -> None:
    """Build the embedded models that a config names and that are not cached."""
    student = (config.student.model, config.vocabulary or "")
    taught = [teacher.model.removeprefix(PEER) for teacher in config.teachers.values()]
    build_named([*student, *taught])


def build_named(models: Iterable[str]) -> None:
    """Build the embedded ones among models, where they are not cached."""
    wanted = [name for name in models if name.startswith(ZOO)]
    if not wanted:
        return
    from teacher.zoo import build_zoo

    by_scale: dict[str, list[str]] = {}
    for name in wanted:
        scale, model = zoo_parts(name)
        by_scale.setdefault(scale, []).append(model)
    threads = torch.get_num_threads()
    for scale, names in by_scale.items():
        build_zoo(names, scale=scale)
    torch.set_num_threads(threads)
