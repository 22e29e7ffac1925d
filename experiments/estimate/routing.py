"""What a router could gain with a config's teachers, said before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from align.text.documents import TextSample
from align.views import Teacher
from experiments.assemble.data import load_data
from experiments.assemble.models import Models
from experiments.assemble.text_sources import check_sources
from experiments.config.presets import load_registry
from experiments.config.tree import Config
from experiments.config.zoo_names import build_zoo_models
from experiments.extraction.context import device, replace_store
from experiments.record.progress import Progress, waiting
from experiments.routing_room.read import RoomByDomain, room_by_domain
from experiments.sources.named import sources_of
from plugins.registry import Registry


def estimate_routing(config: Config, registry: Registry | None = None) -> RoomByDomain:
    """Read the config's held-out texts with every teacher, each asked live.

    Args:
        config: a run's.
        registry: plugins; None loads the built-in and the installed ones.

    Raises:
        InputError: a model or a text cannot be used, or fewer than two teachers predict
            text.
    """
    return room_by_domain(*readers_of(config, registry), shown_reading)


def readers_of(
    config: Config, registry: Registry | None
) -> tuple[Mapping[str, Teacher], Sequence[TextSample]]:
    """A config's teachers, each live, and its held-out texts, cut and fitted to all.

    Args:
        config: a run's.
        registry: plugins; None loads the built-in and the installed ones.

    Raises:
        InputError: a model or a text cannot be used.
    """
    check_sources(config.data)
    registry = registry or load_registry(config)
    build_zoo_models(config)
    with waiting("loading models and reading texts"):
        sources = sources_of(config, registry)
        unstored = replace_store(config, read=False)
        models = Models(unstored, torch.device(device()), sources)
        readers = models.readers()
        data = load_data(config.data, models.encode, config.run.seed, teachers=readers)
        scaler = registry.guarded("rope_scaler", config.align.rope_scaling_method)
        models.fit_lengths(data.eval, scaler)
    return models.teachers, data.eval


def shown_reading(starts: Iterable[int]) -> Iterable[int]:
    """Batches of texts, with how far they are."""
    every = list(starts)
    return Progress(True).over(every, "reading with every teacher", len(every))
