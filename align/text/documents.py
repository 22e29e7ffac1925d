"""Read text as it is, one unmodified string a document."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from pathlib import Path

from align.errors import InputError
from align.text.chat_rows import RowError
from align.text.conversation import Chats, Conversation, Learn
from align.text.csv_rows import rows_of_table
from align.text.files import Kind, kind_of, text_blocks
from align.text.folder import Split, TextFile, text_files
from align.text.json_rows import rows_of_json, rows_of_lines
from align.text.plain_text import documents
from align.text.records import Row, text_of, weight_of
from align.text.tables import rows_of_arrow, rows_of_parquet
from align.text.tool_calls import Tools

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
    _: KW_ONLY
    weight: float = 1.0
    """What it counts in a loss beside other texts, >= 0."""
    own: bool = False
    """Whether the student wrote it itself: it learns what teachers say of it, and not
    to write it again."""


def read_texts(
    path: str | Path,
    domain: str | None = None,
    text_field: str = "text",
    chats: Chats = "plain",
    *,
    split: Split | None = None,
    bad_row: Callable[[RowError], None] | None = None,
    weight_field: str | None = None,
    learn: Learn = "all",
    tools: Tools = "refuse",
) -> list[TextSample]:
    """Read the documents of one file, or of all such files in a folder, at once.

    Arguments, result and errors are those of :func:`iter_texts`.
    """
    return list(
        iter_texts(
            path,
            domain,
            text_field,
            chats,
            split=split,
            bad_row=bad_row,
            weight_field=weight_field,
            learn=learn,
            tools=tools,
        )
    )


def iter_texts(
    path: str | Path,
    domain: str | None = None,
    text_field: str = "text",
    chats: Chats = "plain",
    *,
    split: Split | None = None,
    bad_row: Callable[[RowError], None] | None = None,
    weight_field: str | None = None,
    learn: Learn = "all",
    tools: Tools = "refuse",
) -> Iterator[TextSample]:
    """Read the documents of one file, or of a folder, one after the other.

    What is held in memory does not grow with the file.

    ``.jsonl`` and ``.ndjson`` hold one object a line, ``.json`` an array of objects or
    one after the other, ``.csv`` and ``.tsv`` one row a line under the names of their
    fields, ``.parquet``, ``.arrow`` and ``.feather`` rows, of which only the columns
    that are needed are read. The text of a row is in ``text_field``, else in
    ``messages``, ``conversations``, ``prompt`` and ``completion``, ``instruction`` and
    ``output``, or ``question`` and ``answer`` (:mod:`align.text.chat_rows`).

    ``.txt``, and a file of any other name that is UTF-8 and no known format, is plain
    text: see :func:`align.text.plain_text.documents`. Line ends stay as they are, CRLF
    included; only a byte order mark is dropped. Documents of nothing but blanks are
    left out.

    All but parquet, Arrow and Feather may be packed by gzip, bzip2, xz or zstd.

    Args:
        path: a file, or a folder: see :func:`align.text.folder.text_files`.
        domain: the samples' domain; None takes each file's name without suffix, or
            its folder's where that names a split or a part alone.
        text_field: the field that holds the text.
        chats: ``template`` makes a :class:`align.text.conversation.Conversation` of
            rows with turns; ``plain`` makes one text of their turns.
        split: what a folder's text is for; None takes every split.
        bad_row: called with each row that holds no text to learn from, which is then
            left out; None raises at the first one.
        weight_field: the field of a row that holds its weight, where it has one; None:
            every row weighs 1.
        learn: whose contents of a conversation are learned: everybody's, the
            ``assistant``'s, or its last answer (``completion``); a row without any is
            a bad row.
        tools: a row with tools or their calls is a bad row (``refuse``), or they are
            written out (``text``, :func:`align.text.tool_calls.tools_as_text`).

    Yields:
        The samples in order of file and place.

    Raises:
        MissingFileError: there is no such path, or no such file in the folder.
        InputError: not UTF-8, bad JSON, no usable field, half a surrogate pair, a
            format that is not read, or no text at all; names the file and the line.
        MissingPackageError: a file that needs pyarrow or zstandard, without it.
    """
    for file in text_files(path, split).files:
        name = file.origin.name if domain is None else domain
        yield from iter_file(
            file,
            name,
            text_field,
            chats,
            bad_row,
            weight_field=weight_field,
            learn=learn,
            tools=tools,
        )


def iter_file(
    file: TextFile,
    domain: str,
    text_field: str = "text",
    chats: Chats = "plain",
    bad_row: Callable[[RowError], None] | None = None,
    *,
    weight_field: str | None = None,
    learn: Learn = "all",
    tools: Tools = "refuse",
) -> Iterator[TextSample]:
    """Read one of the files that :func:`align.text.folder.text_files` finds.

    Arguments, result and errors are those of :func:`iter_texts`.
    """
    kind = kind_of(file.path)
    texts: Iterable[tuple[int, str, float]]
    if kind == "plain":
        pieces = documents(text_blocks(file.path), best_cut)
        texts = ((place, text, 1.0) for place, text in enumerate(pieces))
    else:
        rows = _rows(file.path, kind, text_field, weight_field)
        read = partial(
            text_of, text_field=text_field, chats=chats, learn=learn, tools=tools
        )
        texts = _texts(rows, read, bad_row, weight_field)
    empty = True
    for place, text, weight in texts:
        if text.strip():
            empty = False
            yield TextSample(text, domain, f"{file.name}:{place}", weight=weight)
    if empty:
        raise InputError(f"{file.path} holds no text; give a file with text")


def _rows(
    path: Path, kind: Kind, text_field: str, weight_field: str | None
) -> Iterator[Row]:
    if kind == "lines":
        return rows_of_lines(path)
    if kind == "json":
        return rows_of_json(path)
    if kind == "parquet":
        return rows_of_parquet(path, text_field, weight_field)
    if kind == "arrow":
        return rows_of_arrow(path, text_field, weight_field)
    return rows_of_table(path, "\t" if kind == "tsv" else ",")


def _texts(
    rows: Iterable[Row],
    read: Callable[..., str],
    bad_row: Callable[[RowError], None] | None,
    weight_field: str | None,
) -> Iterator[tuple[int, str, float]]:
    for place, where, record in rows:
        try:
            text = read(record, where=where)
        except RowError as error:
            if bad_row is None:
                raise
            bad_row(error)
        else:
            yield place, text, weight_of(record, weight_field, where)


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
                chunks.append(replace(sample, text=piece, id=f"{sample.id}#{index}"))
    return chunks


def _pieces(text: str, max_chars: int) -> Iterator[str]:
    start = 0
    while len(text) - start > max_chars:
        cut = best_cut(text, start, start + max_chars)
        yield text[start:cut]
        start = cut
    yield text[start:]


def best_cut(text: str, start: int, limit: int) -> int:
    """The best place to end a piece that begins at ``start``, in (start, limit].

    See :func:`chunk_samples`. Where composed characters fill the second half, the
    place is ``limit`` itself.
    """
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
