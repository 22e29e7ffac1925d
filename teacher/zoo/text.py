"""Text that every CPython carries, cut into domains and disjoint splits.

Prose is the manual in ``pydoc_data.topics`` with the docstrings and longer
comments of the standard library; code is the library's sources without them. So
no sentence stands in both domains, and a file's prose shares the split of its code.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import os
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from align.errors import InputError, MachineError
from align.text.documents import TextSample

DOMAINS = ("prose", "code")
"""What a text is."""
SPLITS = ("teacher", "student", "calibration", "eval")
"""Who may read it: teachers' training, the student's training, the closed-form
calibration of adapters, and held-out measurement."""

SPLIT_CHARS = {"eval": 80_000, "calibration": 60_000, "student": 300_000}
"""Characters per domain; the teachers take everything else."""

NOTED = Path(__file__).with_name("weights") / "splits.json"
"""Which documents are not the teachers'."""

_READING = threading.Lock()
"""Held while the library is read. Models are trained side by side: one thread reads
for all, and CPython 3.11's ``ast.parse`` fails where two threads are in it."""

_NO_TEXT = {
    "__phello__",
    "dist-packages",
    "encodings",  # tables
    "idle_test",
    "pydoc_data",  # read as topics
    "site-packages",
    "test",  # many systems do not install it
    "tests",
}
_SHORT_PROSE = 100  # characters; below, docstrings are labels rather than sentences
_COMMENT_LINES = 3
_REPEATABLE = 60  # characters; shorter paragraphs may occur in several splits


def zoo_samples(domain: str, split: str, max_chars: int = 512) -> list[TextSample]:
    """Give the samples of one domain and split, in an order fixed by their names.

    Args:
        domain: one of :data:`DOMAINS`.
        split: one of :data:`SPLITS`.
        max_chars: characters per sample at most; documents are cut between
            paragraphs or lines where that is possible.

    Returns:
        Samples whose ``id`` is ``<document>#<number>``. No paragraph of 60 or more
        characters stands in two splits. The same CPython gives the same samples.

    Raises:
        ValueError: an unknown domain or split, or ``max_chars`` < 1.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be >= 1, got {max_chars}")
    return [
        TextSample(piece, domain, f"{name}#{number}")
        for name, text in zoo_documents(domain, split)
        for number, piece in enumerate(cut_text(text, max_chars))
    ]


def zoo_documents(domain: str, split: str) -> tuple[tuple[str, str], ...]:
    """Give whole documents as (name, text); arguments as :func:`zoo_samples`."""
    for argument, value, valid in (
        ("domain", domain, DOMAINS),
        ("split", split, SPLITS),
    ):
        if value not in valid:
            raise InputError(
                f"zoo {argument} {value!r} is unknown; choose one of {', '.join(valid)}"
            )
    with _READING:
        return _corpus(whole=split not in SPLIT_CHARS)[domain, split]


@lru_cache(maxsize=1)
def text_fingerprint() -> str:
    """Name the state of this CPython's text without reading it.

    Returns:
        A hex digest of the version and of every source's path and size.
    """
    digest = hashlib.sha256(sys.version.encode())
    for name, path in _sources():
        digest.update(f"{name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=2)
def _corpus(*, whole: bool) -> dict[tuple[str, str], tuple[tuple[str, str], ...]]:
    """Assign every document to a split, then drop repeated paragraphs.

    A constant of this CPython, read once per process. The teachers' split is most of
    the library, and comes last: what is held out of it does not depend on it.

    Args:
        whole: also the teachers' split; without it only the other splits' documents
            are read.
    """
    files = _separated(whole)
    topics = _topics(whole)
    sizes = _sizes(files, topics)
    splits = _assign("files", *sizes["files"])
    topic_splits = _assign("topics", *sizes["topics"])
    documents: dict[tuple[str, str], list[tuple[str, str]]] = {
        (domain, split): [] for domain in DOMAINS for split in SPLITS
    }
    for name, text in topics:
        documents["prose", topic_splits[name]].append((name, text))
    for name, prose, code in files:
        documents["prose", splits[name]].append((name, prose))
        documents["code", splits[name]].append((name, code))
    known_paragraphs: set[str] = set()
    corpus = {}
    splits_read = [split for split in SPLITS if whole or split in SPLIT_CHARS]
    for split in reversed(splits_read):  # what is held out is held out of all others
        for domain in DOMAINS:
            ordered = sorted(documents[domain, split], key=lambda item: _hash(item[0]))
            split_documents = [
                (name, _without_repeats(text, known_paragraphs))
                for name, text in ordered
            ]
            split_documents = _limit(
                [(name, text) for name, text in split_documents if text], split
            )
            corpus[domain, split] = tuple(split_documents)
    return corpus


def _assign(kind: str, sizes: dict[str, int], share: float) -> dict[str, str]:
    """Give every document its split: the one it had where the teachers were trained.

    The trained teachers that lie beside the code have read one CPython's text. Another
    one has some other documents and sizes; were they dealt anew, the held-out text
    could hold what those teachers know. Documents that are new are the teachers'.

    Args:
        kind: ``files`` or ``topics``.
        sizes: characters of prose in each document; code is plenty and follows.
        share: part of :data:`SPLIT_CHARS` to be had from these documents.
    """
    known = noted_splits()[kind]
    splits = {name: known.get(name, "teacher") for name in sizes}
    for split, target_size in SPLIT_CHARS.items():
        size = sum(sizes[name] for name, given in splits.items() if given == split)
        if size < share * target_size / 2:
            raise MachineError(
                f"this Python's library holds {size:,} characters of the "
                f"{share * target_size:,.0f} {kind} that are the {split} split of the "
                f"embedded models' text ({_library()}): install its standard library "
                "whole, or use text and models of your own"
            )
    return splits


@lru_cache(maxsize=1)
def noted_splits() -> dict[str, dict[str, str]]:
    """Split of every document that is not the teachers', by kind and name, as noted
    beside the trained teachers."""
    noted = json.loads(NOTED.read_text(encoding="utf-8"))
    return {
        kind: {name: split for split, names in splits.items() for name in names}
        for kind, splits in noted.items()
    }


def dealt(sizes: dict[str, int], share: float) -> dict[str, list[str]]:
    """Deal documents, in the order of their hashes, until each split has its size.

    Done once, when teachers are trained to be shipped (:mod:`teacher.zoo.ship`).

    Args:
        sizes: characters of prose in each document.
        share: part of :data:`SPLIT_CHARS` to be had from these documents.

    Returns:
        Names by split, but for the teachers', who have the rest.
    """
    left = sorted(sizes, key=_hash)
    splits: dict[str, list[str]] = {}
    for split, target_size in SPLIT_CHARS.items():
        names, size = [], 0
        for name in left:
            if size >= share * target_size:
                break
            if sizes[name] <= share * target_size / 3:
                names.append(name)
                size += sizes[name]
        splits[split] = names
        left = [name for name in left if name not in set(names)]
    return splits


def document_sizes() -> dict[str, tuple[dict[str, int], float]]:
    """Characters of prose by kind and document, and the kind's part of each split."""
    return _sizes(_separated(whole=True), _topics(whole=True))


def _sizes(
    files: Sequence[tuple[str, str, str]], topics: Sequence[tuple[str, str]]
) -> dict[str, tuple[dict[str, int], float]]:
    prose_sizes = {name: len(prose) for name, prose, _ in files}
    topic_sizes = {name: len(text) for name, text in topics}
    return {"files": (prose_sizes, 0.75), "topics": (topic_sizes, 0.25)}


def _limit(documents: list[tuple[str, str]], split: str) -> list[tuple[str, str]]:
    """Keep documents until the split has its size; the teachers keep all."""
    if split not in SPLIT_CHARS:
        return documents
    target_size = SPLIT_CHARS[split]
    kept, size = [], 0
    for name, text in documents:
        if size < target_size and len(text) <= target_size / 3:
            # no file is a split by itself
            kept.append((name, text))
            size += len(text)
    return kept


def _sources() -> Iterator[tuple[str, Path]]:
    root = _library()
    for parts in sorted(_modules(root, ())):
        yield "/".join(parts), root.joinpath(*parts)


def _modules(folder: Path, parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Paths of modules below a folder; folders that are no text are not entered."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name, here = entry.name, (*parts, entry.name)
            if name in _NO_TEXT or (not parts and "config-" in name):
                continue
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                yield here
            if entry.is_dir(follow_symlinks=False):
                yield from _modules(folder / name, here)


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _separated(whole: bool) -> list[tuple[str, str, str]]:
    """Name, prose and code of every module; parsing them all takes seconds."""
    sought = gc.isenabled()
    gc.disable()  # trees are no garbage: a third of what reading takes
    try:
        return [(name, *_separate(text)) for name, text in _read_sources(whole)]
    finally:
        if sought:
            gc.enable()


def _read_sources(whole: bool) -> Iterator[tuple[str, str]]:
    """Every module by its name, or those that are noted to be no teacher's."""
    root, noted = _library(), sorted(noted_splits()["files"])
    some = ((name, root / name) for name in noted if (root / name).is_file())
    for name, path in _sources() if whole else some:
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a few old modules declare another encoding
            continue


def _topics(whole: bool) -> list[tuple[str, str]]:
    from pydoc_data.topics import topics

    noted = noted_splits()["topics"]
    return [
        (f"topics/{name}", text.strip() + "\n")
        for name, text in sorted(topics.items())
        if whole or f"topics/{name}" in noted
    ]


def _separate(source: str) -> tuple[str, str]:
    """Cut a module into its prose (docstrings, long comments) and its code."""
    lines = source.splitlines(keepends=True)
    prose: list[tuple[int, str]] = []
    drop: set[int] = set()
    for node, doc in _docstrings(source):
        drop.update(range(node.lineno - 1, node.end_lineno or node.lineno))
        if len(doc) >= _SHORT_PROSE and doc.count(">>>") * 80 < len(doc):
            prose.append((node.lineno, doc))
    for first, comment in _comments(lines):
        drop.update(range(first, first + len(comment)))
        text = "\n".join(line.strip().lstrip("#").removeprefix(" ") for line in comment)
        if len(text) >= _SHORT_PROSE:
            prose.append((first, text))
    code = "".join(line for number, line in enumerate(lines) if number not in drop)
    sentences = "\n\n".join(text.strip() for _, text in sorted(prose))
    return sentences, code.strip() + "\n"


_BODIES = ("body", "handlers", "orelse", "finalbody", "cases")
"""Where statements hold others."""


def _docstrings(source: str) -> Iterator[tuple[ast.expr, str]]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # lib2to3 keeps samples of Python 2
        return
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        for field in _BODIES:  # no expression holds a class or a function
            waiting.extend(getattr(node, field, ()))
        if isinstance(node, holders):
            doc = ast.get_docstring(node)
            if doc and isinstance(node.body[0], ast.Expr):
                yield node.body[0].value, doc


def _comments(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    block: list[str] = []
    for number, line in enumerate([*lines, ""]):
        if line.lstrip().startswith("#"):
            block.append(line)
            continue
        if len(block) >= _COMMENT_LINES:
            yield number - len(block), block
        block = []


def _without_repeats(text: str, known_paragraphs: set[str]) -> str:
    """Leave out paragraphs already seen; remember those that are new."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        key = " ".join(paragraph.split())
        if len(key) >= _REPEATABLE:
            if key in known_paragraphs:
                continue
            known_paragraphs.add(key)
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs).strip("\n")


def cut_text(text: str, max_chars: int) -> Iterator[str]:
    """Cut before a paragraph, else a line, else a word, in pieces of max_chars."""
    start = 0
    while start < len(text):
        end = min(start + max_chars, len(text))
        if end < len(text):
            for mark in ("\n\n", "\n", " "):
                mark_at = text.rfind(mark, start + max_chars // 2, end)
                if mark_at >= 0:
                    end = mark_at + len(mark) - (mark == " ")
                    break
        if piece := text[start:end].strip("\n"):
            yield piece
        start = end


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
