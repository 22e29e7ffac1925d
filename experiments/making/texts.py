"""Text by which makers of students judge, chosen without reading all there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import TypeVar

from align.text.documents import TextSample
from experiments.assemble.text_sources import (
    ZOO,
    Reading,
    Source,
    sources_of,
    zoo_texts,
)
from experiments.config.parsing import ConfigError
from experiments.texts.config import DataConfig

TEXTS = 32
"""Texts that a maker judges by."""
LENGTH = 128
"""Tokens of each that are read."""
READ = 8
"""As many texts are looked at for each that is chosen, and no more."""

_T = TypeVar("_T")


def texts_of(data: DataConfig, count: int = TEXTS) -> list[str]:
    """Texts for a maker to judge by: of each file (of the embedded text each domain)
    some, evenly from its front.

    Args:
        data: says where the training text is and how it is read.
        count: how many; no more than ``count`` files are opened, evenly chosen.

    Raises:
        MtkdError: a path that is not there, or holds no text.
    """
    reading = Reading(data)
    parts = [part for s in sources_of(data, "train") for part in _parts(s, reading)]
    parts += [reading.pairs("train")] if data.pairs else []
    each = -(-count // max(len(parts := _evenly(parts, count)), 1))
    read = [list(islice(part, each * READ)) for part in parts]
    chosen = [_evenly(samples, each) for samples in read if samples]
    if not chosen:
        raise ConfigError(
            f"{', '.join([*data.train, *data.pairs])} hold no text; give others"
        )
    in_turn = chain.from_iterable(zip_longest(*chosen))
    texts = [str(sample.text) for sample in in_turn if sample is not None]
    return [text[: LENGTH * 16] for text in texts[:count]]


def _parts(source: Source, reading: Reading) -> list[Iterator[TextSample]]:
    """The texts of a source, by file; of the embedded ones by domain."""
    if source.entry != ZOO:
        pairs = zip(source.found.files, source.domains, strict=True)
        return [reading.of_file(file, domain) for file, domain in pairs]
    samples = list(zoo_texts("student"))
    domains = dict.fromkeys(sample.domain for sample in samples)
    return [iter([s for s in samples if s.domain == domain]) for domain in domains]


def _evenly(items: Sequence[_T], count: int) -> list[_T]:
    """At most so many, evenly from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[int(n * len(items) / count)] for n in range(count)]
