"""Who of a config's teachers is worth asking, said before anything runs."""

from __future__ import annotations

from experiments.config.tree import Config
from experiments.estimate.routing import readers_of, shown_reading
from experiments.routing_room.foretold import SAMPLES
from experiments.teacher_pool.compared import Pool, compared
from experiments.teacher_pool.read import read_pool
from plugins.registry import Registry


def compare_teachers(
    config: Config, registry: Registry | None = None, *, texts: int = SAMPLES
) -> Pool:
    """Read the config's held-out texts once with every teacher, each asked live.

    Args:
        config: a run's.
        registry: plugins; None loads the built-in and the installed ones.
        texts: of each domain that are read.

    Raises:
        InputError: a model or a text cannot be used, or fewer than two teachers predict
            text.
    """
    teachers, samples = readers_of(config, registry)
    return compared(read_pool(teachers, samples, texts=texts, progress=shown_reading))
