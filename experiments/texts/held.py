"""Texts on disk in place of memory, read one by one where they are needed."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, overload

from align.errors import InputError
from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.text.fragment import Fragment
from align.text.prompted import Beside, Prompted

_BUFFER = 1 << 20


class TextFileOnDisk(Sequence[TextSample]):
    """Samples that were appended, 8 bytes of memory each.

    The file has no name and is gone with the process. Threads may read at once.
    """

    def __init__(self, folder: Path) -> None:
        """Begin an empty file.

        Args:
            folder: on a disk with room for all texts; made where it is not there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(  # noqa: SIM115  # as long as this lives
            dir=folder, buffering=_BUFFER
        )
        self._ends = array("Q", [0])

    def extend(self, samples: Iterable[TextSample]) -> None:
        """Append samples.

        Raises:
            InputError: a message holds what JSON does not.
            OSError: the disk is full.
        """
        for sample in samples:
            row = _written(sample)
            self._file.write(row)
            self._ends.append(self._ends[-1] + len(row))
        self._file.flush()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> TextSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TextSample]: ...
    def __getitem__(self, index: int | slice) -> TextSample | list[TextSample]:
        """A sample, read anew; of a slice a list."""
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        begin, end = self._ends[place], self._ends[place + 1]
        return _read(os.pread(self._file.fileno(), end - begin, begin))


class Chosen(Sequence[TextSample]):
    """Some of the samples of a file, in an order of their own."""

    def __init__(self, texts: Sequence[TextSample], order: Iterable[int]) -> None:
        """Hold where they are.

        Args:
            texts: that are chosen among.
            order: their places; one may stand several times.
        """
        self._texts, self._order = texts, array("q", order)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> TextSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TextSample]: ...
    def __getitem__(self, index: int | slice) -> TextSample | list[TextSample]:
        """A sample, or of a slice a list."""
        if isinstance(index, slice):
            return [self._texts[place] for place in self._order[index]]
        return self._texts[self._order[index]]


def chosen(texts: Sequence[TextSample], order: Iterable[int]) -> Sequence[TextSample]:
    """Some samples in an order: a list of those in memory, else where they are."""
    if isinstance(texts, list):
        return [texts[place] for place in order]
    return Chosen(texts, order)


def _written(sample: TextSample) -> bytes:
    text: Any = sample.text
    if isinstance(text, Conversation):
        today = None if text.today is None else text.today.isoformat()
        text = {
            "messages": list(map(dict, text.messages)),
            "rest": [text.joint, today, text.goes_on, text.learned],
        }
    elif isinstance(text, Prompted):
        text = {"prompt": text.prompt, "rest": [text.completion, text.goes_on]}
    elif isinstance(text, Beside):
        text = {"beside": list(text.__getnewargs__())}
    row = [text, sample.domain, sample.id, sample.weight, sample.own]
    row.append(isinstance(text, Fragment))
    try:
        return json.dumps(row).encode()
    except TypeError as error:
        raise InputError(
            f"{sample.id}: a message of this conversation cannot be held on disk "
            f"({error}); set data.hold=memory, or write its rows as JSON"
        ) from error


def _read(row: bytes) -> TextSample:
    text, domain, name, weight, is_own, goes_on = json.loads(row)
    if isinstance(text, dict) and "messages" in text:
        joint, day, *rest = text["rest"]
        today = None if day is None else date.fromisoformat(day)
        text = Conversation(text["messages"], joint, today, *rest)
    elif isinstance(text, dict) and "beside" in text:
        words, other, links, cut = text["beside"]
        text = Beside(words, other, links and list(map(tuple, links)), cut)
    elif isinstance(text, dict):
        text = Prompted(text["prompt"], *text["rest"])
    elif goes_on:
        text = Fragment(text)
    return TextSample(text, domain, name, weight=weight, own=is_own)
