"""``data.train`` and ``data.eval``: files found, named apart, checked and read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Literal

from align.errors import InputError, prefix_errors
from align.foreign.quote import say
from align.text.chat_rows import RowError
from align.text.conversation import Conversation
from align.text.documents import TextSample, iter_file
from align.text.files import kind_of
from align.text.folder import TextFile, TextFiles, absolute, shortest_names, text_files
from align.text.parallel import pairs_of_file, pairs_of_lines
from experiments.config.tree import Config
from experiments.texts.config import DataConfig
from experiments.texts.hub import hub_files, hub_set
from experiments.texts.mixing import check_mix
from experiments.texts.pairs import text_of_pair, with_links
from teacher.names import PEER
from teacher.sources.built_in import SOURCES, parted
from teacher.sources.files import FILES

ZOO = "zoo"
"""The embedded texts, in place of a path."""

Which = Literal["train", "eval"]
"""One of the lists of sources."""

LISTS: tuple[Which, ...] = ("train", "eval")

_FIRST = 16
"""Files of a source that are looked at before any work, and texts of each."""
_NUMBER = re.compile(r"(?=.*\d)[-+]?(\d[\d,_ ]*)?\.?\d*([eE][-+]?\d+)?%?")


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of a list."""

    entry: str
    """The path, or ``zoo``."""
    found: TextFiles
    """Its files, under names that no other file of the run has; none of ``zoo``."""
    domains: tuple[str, ...]
    """Of each file."""


@dataclass(slots=True)
class BadRows:
    """Counts rows that hold no text to learn from."""

    count: int = 0
    first: str = ""
    """What is wrong with the first one."""

    def __call__(self, error: RowError) -> None:
        """Count one more."""
        self.count += 1
        self.first = self.first or str(error)

    def sentences(self) -> list[str]:
        """What a user should know of them; empty if there were none."""
        if not self.count:
            return []
        rows = "row holds" if self.count == 1 else "rows hold"
        return [f"{self.count:,} {rows} no text and were left out, first: {self.first}"]


@dataclass(slots=True)
class Reading:
    """One reading of a run's text, and what happened to it."""

    config: DataConfig
    bad_rows: BadRows = field(default_factory=BadRows)

    def samples(self, which: Which, split: str) -> Iterator[TextSample]:
        """Read every source of a list, uncut, one document after the other.

        Args:
            which: the list.
            split: the part of the embedded texts that ``zoo`` stands for.

        Raises:
            MtkdError: see :func:`align.text.documents.iter_texts`; names the list.
        """
        for source in sources_of(self.config, which):
            if source.entry == ZOO:
                yield from zoo_texts(split)
                continue
            for file, domain in zip(source.found.files, source.domains, strict=True):
                with prefix_errors(f"data.{which}"):
                    yield from self.of_file(file, domain)
        yield from self.pairs(which)

    def pairs(self, which: Which) -> Iterator[TextSample]:
        """Read ``data.pairs``, each pair a prompt with its completion.

        Args:
            which: those to learn from, or those that are held out.

        Raises:
            MtkdError: a file that is not there or cannot be read as pairs, or, unless
                ``on_bad_row`` is ``skip``, a pair of which a side is empty or missing.
        """
        for name, pairs in self.config.pairs.items():
            paths = [Path(path).expanduser() for path in pairs.files(which == "eval")]
            if not paths:
                continue
            lines = (
                pairs_of_file(
                    paths[0],
                    pairs.source_key,
                    pairs.target_key,
                    self.bad_rows if self.config.on_bad_row == "skip" else None,
                )
                if len(paths) == 1
                else pairs_of_lines(paths[0], paths[1])
            )
            links = pairs.links if which == "train" else None
            with prefix_errors(f"data.pairs.{name}"):
                for (where, source, target), line in with_links(lines, links):
                    if source and target:
                        text = text_of_pair(pairs, name, source, target, line)
                        yield TextSample(text, name, where)
                    elif source or target:
                        self._bad_pair(where, "target" if source else "source")

    def _bad_pair(self, where: str, empty: str) -> None:
        error = RowError(
            f"{where}: the {empty} is empty; give both sides, or set "
            "data.on_bad_row=skip"
        )
        if self.config.on_bad_row == "stop":
            raise error
        self.bad_rows(error)

    def of_file(self, file: TextFile, domain: str) -> Iterator[TextSample]:
        """Read one file of a source.

        Args:
            file: from :func:`sources_of`.
            domain: of its samples.

        Raises:
            MtkdError: see :func:`align.text.documents.iter_texts`.
        """
        skip = self.config.on_bad_row == "skip"
        samples = iter_file(
            file,
            domain,
            self.config.text_field,
            self.config.chats,
            self.bad_rows if skip else None,
            weight_field=self.config.weight_field,
            learn=self.config.learn,
            tools=self.config.tools,
        )
        if self.config.date is None:
            return samples
        today = date.fromisoformat(self.config.date)
        return (
            replace(sample, text=sample.text.on(today))
            if isinstance(sample.text, Conversation)
            else sample
            for sample in samples
        )


def sources_of(config: DataConfig, which: Which) -> list[Source]:
    """Find the files of a list.

    Files without a domain of their own bear the last parts of their paths, as many as
    tell them apart: ``code/train`` and ``news/train``. Names of files, which samples'
    ids begin with, are told apart over both lists.

    Raises:
        MtkdError: no such path, or no text there; names the list.
    """
    entries = {name: config.sources(name) for name in LISTS}
    text_files = {
        name: [_files(name, path) for _, path in entries[name]] for name in LISTS
    }
    every = [
        file for name in LISTS for listed in text_files[name] for file in listed.files
    ]
    names = iter(_unique_names(every))
    for name in LISTS:
        text_files[name] = [
            replace(
                listed, files=tuple(replace(f, name=next(names)) for f in listed.files)
            )
            for listed in text_files[name]
        ]
    domains = _domains(entries[which], text_files[which])
    return [
        Source(path, listed, domain)
        for (_, path), listed, domain in zip(
            entries[which], text_files[which], domains, strict=True
        )
    ]


def check_sources(config: DataConfig) -> None:
    """See, before any work, that every source is there and begins with text.

    Raises:
        MtkdError: one does not; names list, file and line. Or ``data.mix`` weighs a
            domain of which there is none.
    """
    reading = Reading(config)
    check_mix(config.mix, domains_of(config))
    for which in LISTS:
        for source in sources_of(config, which):
            pairs = zip(source.found.files, source.domains, strict=True)
            for file, domain in list(pairs)[:_FIRST]:
                with prefix_errors(f"data.{which}"):
                    first = list(islice(reading.of_file(file, domain), _FIRST))
                    _check_numbers(file.path, first, config.text_field)
    _check_pairs(config)


def domains_of(config: DataConfig) -> list[str]:
    """The domains of the text to learn from, as sources and files say."""
    domains: list[str] = []
    for source in sources_of(config, "train"):
        domains += _zoo_domains() if source.entry == ZOO else source.domains
    return list(dict.fromkeys([*domains, *config.pairs]))


def _zoo_domains() -> Sequence[str]:
    from teacher.zoo import DOMAINS

    return DOMAINS


def _check_pairs(config: DataConfig) -> None:
    """See that every file of ``data.pairs`` is there and begins with pairs."""
    for name, pairs in config.pairs.items():
        if config.eval and not pairs.files(held_out=True):
            raise InputError(
                "data.eval is held out, but nothing of data.pairs."
                f"{name}; give it eval_file, or eval_source and eval_target"
            )
        for which in LISTS:
            alone = Reading(replace(config, pairs={name: pairs}))
            if pairs.files(which == "eval") and not list(
                islice(alone.pairs(which), _FIRST)
            ):
                raise InputError(
                    f"data.pairs.{name}: {', '.join(pairs.files(which == 'eval'))} "
                    "hold no pairs; give some"
                )


def _check_numbers(path: Path, first: Sequence[TextSample], text_field: str) -> None:
    """Refuse a table whose first rows hold numbers where the text should be.

    Tables alone: whoever writes numbers into a string of JSON means them.
    """
    if kind_of(path) not in ("csv", "tsv"):
        return
    texts = [sample.text.strip() for sample in first]
    if all(_NUMBER.fullmatch(text) for text in texts):
        raise InputError(
            f"{path}: field {text_field!r} holds nothing but numbers "
            f"({', '.join(texts[:3])}); set data.text_field to the field with the "
            "text, or, where numbers are the text, save the rows as .jsonl"
        )


def source_warnings(config: Config) -> list[str]:
    """What a user should know of where a run's text is from, in sentences."""
    sentences = [
        sentence for which in LISTS for sentence in left_out(config.data, which)
    ]
    taught = (teacher.model.removeprefix(PEER) for teacher in config.teachers.values())
    models = [config.student.model, *taught]
    named_models = [name for name in models if _is_users_own(name)]
    trained = config.data.sources("train")
    if config.data.pairs and any(path == ZOO for _, path in trained):
        sentences.append(
            "data.train is [zoo] beside data.pairs: the embedded prose and code are "
            "learned, too; data.train=[] leaves them out"
        )
    elif named_models and trained and all(path == ZOO for _, path in trained):
        sentences.append(
            f"data.train is [zoo]: with {named_models[0]!r}, all that is learned from "
            "is the embedded sample of Python's prose and code, which shows that a run "
            "works and teaches little; give your own text: data.train=[texts.jsonl]"
        )
    return sentences


def _is_users_own(model: str) -> bool:
    """Whether a model is a folder's or the hub's: no other source has the name."""
    try:
        return parted(model, SOURCES)[0] == FILES
    except InputError:
        return False


def left_out(config: DataConfig, which: Which) -> list[str]:
    """A sentence on each source of a list that holds more than is read of it."""
    sentences = []
    for source in sources_of(config, which):
        others, count = str(source.found), len(source.found.files)
        if others:
            read = "1 file is" if count == 1 else f"{count} files are"
            sentences.append(
                f"data.{which}: of {source.entry}, {read} read and these left out: "
                f"{others}; name a file to read it"
            )
    return sentences


def tell(sentences: Iterable[str]) -> None:
    """Print warnings."""
    for sentence in sentences:
        say(f"warning: {sentence}")


def zoo_texts(split: str) -> Iterator[TextSample]:
    """The embedded documents of a split, whole."""
    from teacher.zoo import DOMAINS, zoo_documents

    for domain in DOMAINS:
        for name, text in zoo_documents(domain, split):
            yield TextSample(text, domain, name)


def _files(which: Which, path: str) -> TextFiles:
    if path == ZOO:
        return TextFiles(())
    with prefix_errors(f"data.{which}"):
        if hub_set(path):
            return hub_files(path, which)
        return text_files(Path(path).expanduser(), which)


def _domains(
    entries: Sequence[tuple[str | None, str]], text_files: Sequence[TextFiles]
) -> list[tuple[str, ...]]:
    """The domain of every file, by entry."""
    taken = {domain for domain, _ in entries if domain is not None}
    if any(path == ZOO for _, path in entries):
        taken |= set(_zoo_domains())
    unnamed = [
        file.origin
        for (domain, _), listed in zip(entries, text_files, strict=True)
        for file in listed.files
        if domain is None
    ]
    names = shortest_names(unnamed, taken)
    return [
        tuple(names[file.origin] if domain is None else domain for file in listed.files)
        for (domain, _), listed in zip(entries, text_files, strict=True)
    ]


def _unique_names(files: Sequence[TextFile]) -> list[str]:
    """Each file's name, longer where another file has the same, numbered where the same
    file is read again."""
    paths = [absolute(file.path) for file in files]
    bearers: dict[str, set[Path]] = {}
    for file, path in zip(files, paths, strict=True):
        bearers.setdefault(file.name, set()).add(path)
    longer, counts = shortest_names(paths), Counter[Path]()
    names = []
    for file, path in zip(files, paths, strict=True):
        name = file.name if len(bearers[file.name]) == 1 else longer[path]
        counts[path] += 1
        names.append(name if counts[path] == 1 else f"{name}~{counts[path]}")
    return names
