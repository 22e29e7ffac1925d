"""Read a run's texts to their ends, without a tokenizer, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from align.errors import prefix_errors
from align.text.folder import TextFile, absolute
from experiments.assemble.splits import check_overlap, digest_of, source_of
from experiments.assemble.text_sources import LISTS, ZOO, Reading, Which, sources_of
from experiments.texts.config import DataConfig

MODEST = 256 << 20
"""Bytes on disk, of all files together, that are read to their ends."""


@dataclass(kw_only=True, slots=True)
class _List:
    """What was found in one of the lists of sources."""

    embedded: bool = False
    """Whether the embedded texts are in it."""
    files: list[TextFile] = field(default_factory=list)
    unread: list[TextFile] = field(default_factory=list)
    """Those too large to be read, of which the first rows were looked at before."""
    digests: list[int] = field(default_factory=list)
    """Of every document that was read."""
    sources: list[int] = field(default_factory=list)
    """Of every pair, see :func:`experiments.assemble.splits.source_of`."""
    pairs: int = 0
    """How many of them are of ``data.pairs``."""


def read_through(config: DataConfig, most: int = MODEST) -> list[str]:
    """Read every row of the texts, as long as all of them are modest.

    Args:
        config: the ``data`` section.
        most: bytes on disk beyond which files are left unread.

    Returns:
        Sentences: what was read, and behind ``warning: `` what a user should know.

    Raises:
        InputError: a row that cannot be read, or held-out text that leaves nothing to
            learn from; names list, file and row.
    """
    reading, lists, left = Reading(config), {name: _List() for name in LISTS}, most
    for name, files in lists.items():
        for source in sources_of(config, name):
            files.embedded |= source.entry == ZOO
            for file, domain in zip(source.found.files, source.domains, strict=True):
                files.files.append(file)
                left -= file.path.stat().st_size
                if left < 0:
                    files.unread.append(file)
                    continue
                with prefix_errors(f"data.{name}"):
                    samples = reading.of_file(file, domain)
                    files.digests += [digest_of(sample.text) for sample in samples]
        for sample in reading.pairs(name):
            files.pairs += 1
            files.digests.append(digest_of(sample.text))
            files.sources.append(source_of(sample))
    overlap = _overlap(config, lists)
    warnings = [*reading.bad_rows.sentences(), *([overlap] if overlap else [])]
    return [*_read(lists, most), *(f"warning: {sentence}" for sentence in warnings)]


def _overlap(config: DataConfig, lists: dict[Which, _List]) -> str:
    """Compare what is learned from with what is measured on: files, else documents."""
    train, held = lists["train"], lists["eval"]
    measured = {absolute(file.path) for file in held.files}
    same = sum(absolute(file.path) in measured for file in train.files)
    kept = config.overlap == "keep"
    rest = train.embedded + len(train.files) - (0 if kept else same)
    if same:
        return check_overlap(
            config, twice=same, total=len(train.files), left=rest, unit="files"
        )
    digests = set(held.digests)
    twice = sum(digest in digests for digest in train.digests)
    sources, of_pairs = set(held.sources), train.digests[-train.pairs :]
    alike = sum(
        source in sources and digest not in digests
        for source, digest in zip(train.sources, of_pairs, strict=False)
    )
    rest = train.embedded + len(train.digests) - (0 if kept else twice + alike)
    rest += len(train.unread)
    return check_overlap(
        config,
        twice=twice,
        total=len(train.digests),
        left=rest,
        sources=alike,
        unit="documents",
    )


def _read(lists: dict[Which, _List], most: int) -> Iterator[str]:
    unread = [file.name for text_files in lists.values() for file in text_files.unread]
    files = sum(len(text_files.files) for text_files in lists.values()) - len(unread)
    pairs = sum(text_files.pairs for text_files in lists.values())
    documents = sum(len(text_files.digests) for text_files in lists.values()) - pairs
    if files:
        read = f"{documents:,} document{'s' * (documents != 1)}"
        yield f"texts: {read}, all rows of {files:,} file{'s' * (files != 1)} read"
    if pairs:
        yield f"texts: {pairs:,} pairs, all of data.pairs read"
    if unread:
        more = f" and {len(unread) - 3} more" if unread[3:] else ""
        yield (
            f"texts: the first rows alone were read of {', '.join(unread[:3])}{more}: "
            f"more than {most >> 20} MiB in all"
        )
