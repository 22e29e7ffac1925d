"""The texts in rows of data: JSON lines, parquet and arrow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from align.conversation import Chats, conversation_of
from align.errors import InputError, MissingPackageError

_QUESTION = ("question", "answer")


def from_lines(
    path: Path, lines: Iterable[tuple[int, str]], text_field: str, chats: Chats
) -> Iterator[tuple[int, str]]:
    """The text of each JSON object.

    Args:
        path: where the lines are from, for errors.
        lines: numbered lines, one object each; blank ones are passed over.
        text_field: the field that holds the text.
        chats: see :func:`align.text.iter_texts`.

    Yields:
        The number of the line and the text.

    Raises:
        ValueError: bad JSON, no usable field, or half a surrogate pair.
    """
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where}: not JSON ({error.msg} at column {error.colno}); give one "
                "object a line"
            ) from error
        yield number, _whole(_text_of(record, text_field, chats, where), where)


def from_rows(path: Path, text_field: str, chats: Chats) -> Iterator[tuple[int, str]]:
    """The text of each row of a parquet or arrow file, counted from 0.

    Arguments and errors are those of :func:`from_lines`.

    Raises:
        ImportError: pyarrow is not installed.
    """
    for number, record in enumerate(_records(path)):
        where = f"{path}, row {number}"
        yield number, _whole(_text_of(record, text_field, chats, where), where)


def _records(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ipc, lib, memory_map, parquet
    except ImportError as error:
        raise MissingPackageError(
            f"reading {path} needs pyarrow; install the extra: pip install "
            "'mtkd[parquet]'"
        ) from error
    try:
        if path.suffix.lower() == ".parquet":
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    yield from batch.to_pylist()
            return
        with memory_map(str(path)) as mapped, ipc.open_stream(mapped) as stream:
            for batch in stream:
                yield from batch.to_pylist()
    except lib.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read: {error}; copy it again") from error


def _text_of(record: Any, text_field: str, chats: Chats, where: str) -> str:
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: {type(record).__name__}; give a JSON object")
    if text_field in record:
        return _string(record[text_field], text_field, where)
    if text_field == "text":
        conversation = conversation_of(record, where)
        if conversation is not None:
            return conversation if chats == "template" else conversation.plain()
        if all(name in record for name in _QUESTION):
            pair = (_string(record[name], name, where) for name in _QUESTION)
            return "\n".join(pair)
    raise InputError(
        f"{where}: no field {text_field!r} among {sorted(map(str, record))}; set "
        "text_field, or give text, question and answer, messages, or prompt and "
        "completion"
    )


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(
            f"{where}: field {name!r} is {type(value).__name__}; give a string"
        )
    return value


def _whole(text: str, where: str) -> str:
    place = lone_surrogate(text)
    if place is None:
        return text
    raise InputError(
        f"{where}: {text[place]!r} at character {place} is half of a surrogate pair "
        "and no character; write both halves, or leave it out"
    )


def lone_surrogate(text: str) -> int | None:
    """Where the first half of a surrogate pair stands alone.

    JSON can write it as ``\\ud83d`` and no tokenizer takes it.
    """
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
