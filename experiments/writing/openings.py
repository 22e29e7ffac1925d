"""What a model is to go on from: the beginnings of texts, prompts, or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

from align.errors import InputError, MissingFileError
from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.text.files import kind_of, numbered_lines
from align.text.json_rows import rows_of_lines
from align.text.prompted import Prompted
from align.tokens.batch import encode_batch
from experiments.writing.writer import Writer

CHARS_A_TOKEN = 16
"""Of a beginning at most: what follows need not be cut into tokens."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What one text begins with."""

    text: str
    """The words to go on from; empty: nothing."""
    turns: tuple[Mapping[str, Any], ...] = ()
    """Of a conversation that is to be answered, in place of ``text``."""
    domain: str = ""
    """Of the text that it is from."""
    id: str = ""
    """Where it is from."""

    def ids(self, writer: Writer) -> list[int]:
        """Its tokens.

        Raises:
            InputError: too long for the model, or turns that it has no template for.
        """
        if self.turns:
            return writer.chat_ids([dict(turn) for turn in self.turns])
        return writer.ids(self.text) if self.text else writer.first_ids()

    def row(self, text: str) -> dict[str, Any]:
        """A row of training text: only what was written is learned, where it can be."""
        if self.turns:
            answer = {"role": "assistant", "content": text}
            return {"messages": [*map(dict, self.turns), answer]}
        if self.text:
            return {"prompt": self.text, "completion": text}
        return {"text": text}


def beginnings(
    samples: Iterable[TextSample], writer: Writer, tokens: int, number: int | None
) -> list[Opening]:
    """The first words of texts; a conversation's turns up to its last answer.

    Args:
        samples: texts, in order.
        writer: whose tokens count.
        tokens: of a beginning at most; of a shorter text, half of it.
        number: of openings at most; None takes all. None comes twice.
    """

    def all_of_them() -> Iterator[Opening]:
        for sample in samples:
            if isinstance(sample.text, Conversation) and writer.talks:
                turns = _to_be_answered(sample.text.messages)
                if turns:
                    yield Opening("", turns, sample.domain, sample.id)
                continue
            text = sample.text
            if writer.start is not None and isinstance(text, Prompted):
                yield Opening(text.prompt, (), sample.domain, sample.id)
                continue
            if isinstance(text, Conversation):
                text = text.plain()
            front = text[: tokens * CHARS_A_TOKEN]
            words = beginning(front, writer.tokenizer, tokens)
            if words.strip():
                yield Opening(words, (), sample.domain, sample.id)

    return _first(all_of_them(), number)


def beginning(text: str, tokenizer: Any, tokens: int) -> str:
    """A text's first tokens, up to the end of a word where one is among them.

    Args:
        text: any.
        tokenizer: fast.
        tokens: at most; of a shorter text half of it.
    """
    text = text.lstrip()
    batch = encode_batch(tokenizer, [text], learn_end=False)
    ends = batch.complete_until[0][batch.has_text[0]].tolist()
    first = ends[: min(tokens, (len(ends) + 1) // 2)]
    borders = [end for end in first if not text[:end][-1:].isspace()]
    words = [end for end in borders if text[end : end + 1].isspace()]
    return text[: (words or borders or [0])[-1]]


def prompts(path: Path, number: int | None, *, chat: bool) -> list[Opening]:
    """A file of prompts: one a line, or rows with ``prompt`` or ``messages``.

    Args:
        path: text in UTF-8; rows where its name ends in ``.jsonl``.
        number: at most; None takes all.
        chat: a prompt is what a user says, put into the model's chat template.

    Raises:
        InputError: a row without either, or no prompt at all; names the line.
        MissingFileError: no such file.
    """
    if not path.is_file():
        fault = "a folder, or a pipe" if path.exists() else "no such file"
        raise MissingFileError(
            f"--prompts {path}: {fault}; give a file with a prompt a line, or "
            "rows of JSON with prompt or messages"
        )
    rows = _rows(path) if kind_of(path) == "lines" else _lines(path)
    openings = _first((_talking(o) if chat else o for o in rows), number)
    if not openings:
        raise InputError(f"--prompts {path} holds no prompt; give one a line")
    return openings


def digest(openings: Sequence[Opening]) -> str:
    """SHA-256 over all of them, in order."""
    whole = hashlib.sha256()
    for opening in openings:
        words = [opening.text, [dict(turn) for turn in opening.turns], opening.domain]
        whole.update(json.dumps(words, sort_keys=True).encode())
    return whole.hexdigest()


def _first(openings: Iterable[Opening], number: int | None) -> list[Opening]:
    """The first so many that differ."""

    def different() -> Iterator[Opening]:
        known = set()
        for opening in openings:
            key = (opening.text, json.dumps([dict(turn) for turn in opening.turns]))
            if key not in known:
                known.add(key)
                yield opening

    return list(islice(different(), number))


def _talking(opening: Opening) -> Opening:
    if opening.turns:
        return opening
    turns = ({"role": "user", "content": opening.text},)
    return Opening("", turns, opening.domain, opening.id)


def _lines(path: Path) -> Iterator[Opening]:
    for number, line in numbered_lines(path):
        if line.strip():
            yield Opening(line.rstrip("\r\n"), (), path.stem, f"{path.name}:{number}")


def _rows(path: Path) -> Iterator[Opening]:
    for _, place, record in rows_of_lines(path):
        if not isinstance(record, dict):
            raise InputError(f"--prompts {place}: no object; give prompt or messages")
        text, messages = record.get("prompt"), record.get("messages")
        if isinstance(text, str) and text:
            yield Opening(text, (), path.stem, place)
        elif _is_asked(messages):
            yield Opening("", _to_be_answered(messages), path.stem, place)
        else:
            raise InputError(
                f"--prompts {place}: a row has {sorted(record) or 'nothing'}; give "
                "prompt (a text) or messages (role and content of each turn)"
            )


def _is_asked(messages: object) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether these are turns of which one waits for an answer."""
    if not isinstance(messages, list) or not all(map(_is_turn, messages)):
        return False
    return bool(_to_be_answered(messages))


def _is_turn(turn: object) -> bool:
    return (
        isinstance(turn, dict)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str)
    )


def _to_be_answered(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[Mapping[str, Any], ...]:
    """The turns before the last answer; all, where the last one waits for one."""
    turns = list(messages)
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return tuple(turns)
