"""Read text as it is, one unmodified string a document."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from align.conversation import Chats, Conversation
from align.errors import InputError, MissingFileError
from align.records import from_lines, from_rows

PACK_CHARS = 2000
"""Paragraphs of a plain text file are packed into documents of about this size."""

_BLOCK_CHARS = 1 << 20
_BLANK_LINE = re.compile(r"\r?\n[^\S\r\n]*\r?\n\s*")
_CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:\r\n|\n)[^\S\r\n]*(?:\r\n|\n)+",  # after a paragraph
        r"\r\n|\n",  # a line
        r"[。！？；…]+[”’」』）]*|[.!?]+[\"'”’)\]]*(?=\s)",  # a sentence
        r"(?=\s)",  # before a blank, as byte-level tokens start with it
    )
)


@dataclass(frozen=True, slots=True)
class TextSample:
    """One piece of text and where it is from."""

    text: str
    """The text, unmodified: token spans index this very string."""
    domain: str
    """What kind of text, the name under which results are reported."""
    id: str
    """Where it is from; unique within one reading."""


def read_texts(
    path: str | Path,
    domain: str | None = None,
    text_field: str = "text",
    chats: Chats = "plain",
) -> list[TextSample]:
    """Read the documents of one file, or of all such files in a folder, at once.

    Arguments, result and errors are those of :func:`iter_texts`.
    """
    return list(iter_texts(path, domain, text_field, chats))


def iter_texts(
    path: str | Path,
    domain: str | None = None,
    text_field: str = "text",
    chats: Chats = "plain",
) -> Iterator[TextSample]:
    """Read the documents of one file, or of a folder, one after the other.

    What is held in memory does not grow with the file.

    ``.jsonl`` gives one document a line, from ``text_field`` or else from
    ``question`` and ``answer``, ``messages``, or ``prompt`` and ``completion``.
    ``.parquet`` and ``.arrow`` (what ``datasets.save_to_disk`` leaves in a folder)
    give one document a row by the same fields. Any other file is plain UTF-8:
    paragraphs end at blank lines and are packed into documents of about
    ``PACK_CHARS`` characters. Line ends stay as they are, CRLF included; only a byte
    order mark is dropped. Documents of nothing but blanks are left out.

    Args:
        path: a file, or a folder that is searched for ``.txt``, ``.jsonl``,
            ``.parquet`` and ``.arrow`` files.
        domain: the samples' domain; None takes each file's name without suffix.
        text_field: the field that holds the text in ``.jsonl`` and ``.parquet``.
        chats: ``template`` makes a :class:`align.conversation.Conversation` of
            ``messages``, and of ``prompt`` and ``completion``; ``plain`` makes one
            text of their turns.

    Yields:
        The samples in order of file and place.

    Raises:
        FileNotFoundError: there is no such path, or no such file in the folder.
        ValueError: not UTF-8, bad JSON, no usable field, half a surrogate pair, or
            no text at all.
        ImportError: a parquet or arrow file without pyarrow installed.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(
            f"no text at {path} (looked in {Path.cwd()}); give a .txt, .jsonl or "
            ".parquet file, or a folder of them"
        )
    if path.is_dir():
        yield from _iter_folder(path, domain, text_field, chats)
        return
    name = path.stem if domain is None else domain
    found = False
    kind = path.suffix.lower()
    if kind == ".jsonl":
        documents = from_lines(path, _lines(path), text_field, chats)
    elif kind in (".parquet", ".arrow"):
        documents = from_rows(path, text_field, chats)
    else:
        documents = _read_plain(path)
    for place, text in documents:
        if text.strip():
            found = True
            yield TextSample(text, name, f"{path.name}:{place}")
    if not found:
        raise InputError(f"{path} holds no text; give a file with text")


def chunk_samples(samples: Iterable[TextSample], max_chars: int) -> list[TextSample]:
    """Cut long samples where it hurts least.

    A cut falls after a paragraph, else a line, a sentence, or before a blank, found
    in the second half of the allowed length; else between any two characters, but
    never inside a CRLF or before a combining character. The chunks joined give the
    sample back; their ids add ``#0``, ``#1`` and so on. Conversations stay whole:
    the rest of one would begin in the middle of a turn.

    Args:
        samples: any samples.
        max_chars: longest chunk in characters, >= 2.

    Returns:
        Texts no longer than ``max_chars``, blank chunks left out.

    Raises:
        ValueError: ``max_chars`` is too small.
    """
    if max_chars < 2:
        raise InputError(f"max_chars must be >= 2, got {max_chars}")
    chunks = []
    for sample in samples:
        if len(sample.text) <= max_chars or isinstance(sample.text, Conversation):
            chunks.append(sample)
            continue
        for index, piece in enumerate(_pieces(sample.text, max_chars)):
            if piece.strip():
                chunks.append(TextSample(piece, sample.domain, f"{sample.id}#{index}"))
    return chunks


def _pieces(text: str, max_chars: int) -> Iterator[str]:
    start = 0
    while len(text) - start > max_chars:
        cut = _cut(text, start, start + max_chars)
        yield text[start:cut]
        start = cut
    yield text[start:]


def _cut(text: str, start: int, limit: int) -> int:
    """The best place to end a chunk, in (start, limit]."""
    half = start + (limit - start) // 2
    for pattern in _CUTS:
        # One character beyond the limit lets a sentence end see the blank after it
        ends = [m.end() for m in pattern.finditer(text, half, limit + 1)]
        ends = [end for end in ends if half < end <= limit and _clean(text, end)]
        if ends:
            return ends[-1]
    for cut in range(limit, half, -1):
        if _clean(text, cut):
            return cut
    return limit


def _clean(text: str, cut: int) -> bool:
    """Whether a cut keeps CRLF and composed characters whole."""
    if text[cut - 1 : cut + 1] == "\r\n" or text[cut - 1] == "\u200d":
        return False
    after = text[cut : cut + 1]
    return not after or unicodedata.category(after) not in ("Mn", "Me", "Mc", "Cf")


def _iter_folder(
    path: Path, domain: str | None, text_field: str, chats: Chats
) -> Iterator[TextSample]:
    suffixes = (".txt", ".jsonl", ".parquet", ".arrow")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes)
    if not files:
        raise MissingFileError(
            f"no {', '.join(suffixes)} file in {path}; give a folder that holds text"
        )
    for file in files:
        where = file.relative_to(path).parent.as_posix()
        prefix = "" if where == "." else where + "/"
        for sample in iter_texts(file, domain, text_field, chats):
            yield TextSample(sample.text, sample.domain, prefix + sample.id)


def _read_plain(path: Path) -> Iterator[tuple[int, str]]:
    """Slices of the file, whole paragraphs, about PACK_CHARS long each."""
    held, index, searched = "", 0, 0
    for block in chain(_blocks(path), [None]):
        held += block or ""
        while gap := _BLANK_LINE.search(held, searched):
            if block is not None and gap.end() == len(held):
                break  # the gap may go on in the next block
            searched = gap.end()
            if gap.end() >= PACK_CHARS:
                yield index, held[: gap.start()]
                held, index, searched = held[gap.end() :], index + 1, 0
    yield index, held


def _blocks(path: Path) -> Iterator[str]:
    """The file's text in pieces; line ends stay as they are."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            while block := file.read(_BLOCK_CHARS):
                yield block
    except UnicodeDecodeError:
        raise _not_utf8(path) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file, counted from 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removesuffix("\n")
    except UnicodeDecodeError:
        raise _not_utf8(path) from None


def _not_utf8(path: Path) -> InputError:
    """Say where a file stops being UTF-8; reads it whole to find the line."""
    raw = path.read_bytes()
    try:
        raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return InputError(
            f"{path}: byte {error.start} (line {line}) is 0x{raw[error.start]:02x}, "
            "which is not UTF-8; convert the file to UTF-8 first"
        )
    return InputError(f"{path} changed while it was read; start again")
