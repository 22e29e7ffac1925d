"""A buffer of texts that the student, or a teacher, writes while a phase trains.

Each takes up the opening of the text that it stands in for. Parts of the buffer are
written by the processes in turn, each part from a seed of its own, so that any number
of processes writes the same; then everybody has all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from align.errors import InputError
from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.text.fragment import Fragment
from align.tokens.cut import Cutter
from experiments.writing.collapse import look_of
from experiments.writing.openings import Opening, beginnings
from experiments.writing.writer import AT_ONCE, Writer, Written
from student.loop.data_order import sample_indices
from teacher.writing import Way
from teacher.writing.config import WrittenConfig

PARTIAL = "\ufffd"
"""What stands for a character of which not all bytes were written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """Who writes: any number of processes of one launch."""

    rank: int
    count: int
    gather: Callable[[Any], list[Any]]
    """Every process's value, by rank."""


@dataclass(kw_only=True, slots=True)
class Buffer:
    """See :class:`student.loop.data_order.Writing`."""

    config: WrittenConfig
    way: Way
    samples: Sequence[TextSample]
    """What is given."""
    seed: int
    """Of the run: it decides which text has which number."""
    phase_seed: int
    """What is drawn in this phase begins here."""
    first_sample: int
    """Number of the phase's first text."""
    texts_per_step: int
    """Of one optimiser step, over all processes."""
    steps: int
    """Optimiser steps of the phase."""
    writer: Callable[[], AbstractContextManager[Writer]]
    """Who writes, as it stands now."""
    cutter: Cutter
    """Cuts what is too long for the student or a teacher."""
    processes: Processes
    chosen: Callable[[Sequence[int]], Sequence[int]] | None = None
    """See :meth:`student.loop.data_order.Ordering.indices`; None: each in its turn."""
    _begins: int = 0
    """Number of the first text that the buffer is for."""
    _texts: list[TextSample] = field(default_factory=list)

    @property
    def every(self) -> int:
        """Optimiser steps for which a buffer is read."""
        return self.config.every

    @property
    def of_student(self) -> bool:
        """Whether the model that is trained writes."""
        return self.config.own

    def write(self, step: int) -> dict[str, Any]:
        """Write the buffer that is read from a step on; every process takes part."""
        self._begins = self.first_sample + step * self.texts_per_step
        places = list(self._places(step))
        each = int(self.way.fields().get("num_return_sequences", 1))
        wanted = min(len(places), self.config.texts or len(places))
        given = [self._given(number) for number in places[: -(-wanted // each)]]
        with self.writer() as writer:
            begun = self._openings(given, writer)
            parts = [begun[at : at + AT_ONCE] for at in range(0, len(begun), AT_ONCE)]
            mine = {
                part: self._part(parts[part], writer, step, part)
                for part in range(len(parts))
                if part % self.processes.count == self.processes.rank
            }
        all_parts: dict[int, Any] = {}
        for of_process in self.processes.gather(mine):
            all_parts |= of_process
        rows = [row for part in range(len(parts)) for row in all_parts[part]]
        self._texts = [_sample_of(row) for row in rows if row["text"] is not None]
        looks = [(row["ids"], row["ended"]) for row in rows]
        look = look_of([ids for ids, _ in looks], [ended for _, ended in looks])
        return {"read": len(places), **look, "tokens": sum(len(i) for i, _ in looks)}

    def in_place_of(self, number: int, given: TextSample) -> TextSample:
        """The next text of the buffer for the share of numbers, else what is given."""
        if not self._texts or not self._stands_in(number):
            return given
        place = self._before(number) - self._before(self._begins)
        return self._texts[place % len(self._texts)]

    def kept(self) -> bytes:
        """All of it as JSON."""
        rows = [_row_of(sample) for sample in self._texts]
        return json.dumps({"begins": self._begins, "texts": rows}).encode()

    def take(self, kept: bytes) -> None:
        """From :meth:`kept`."""
        whole = json.loads(kept)
        self._begins = whole["begins"]
        self._texts = [_sample_of(row) for row in whole["texts"]]

    def _before(self, number: int) -> int:
        """How many texts before this number are written, over the whole run."""
        return math.floor(number * self.config.share + 1e-9)

    def _stands_in(self, number: int) -> bool:
        return self._before(number + 1) > self._before(number)

    def _places(self, step: int) -> Iterator[int]:
        last = min(step + self.every, self.steps)
        end = self.first_sample + last * self.texts_per_step
        return filter(self._stands_in, range(self._begins, end))

    def _given(self, number: int) -> TextSample:
        if self.chosen is not None:
            (index,) = self.chosen([number])
            return self.samples[index]
        (index,) = sample_indices(len(self.samples), self.seed, number, 1)
        return self.samples[index]

    def _openings(
        self, given: Sequence[TextSample], writer: Writer
    ) -> list[tuple[TextSample, Opening, list[int]]]:
        """What is gone on from; a text without words to begin with is left out."""
        begun = []
        for sample in given:
            for opening in beginnings([sample], writer, self.config.opening_tokens, 1):
                try:
                    begun.append((sample, opening, opening.ids(writer)))
                except InputError:  # longer than the model reads
                    continue
        return begun

    def _part(
        self,
        begun: Sequence[tuple[TextSample, Opening, list[int]]],
        writer: Writer,
        step: int,
        part: int,
    ) -> list[dict[str, Any]]:
        """The rows of some openings, each cut to what everybody reads."""
        name = f"{self.phase_seed} {step} {part}".encode()
        texts = writer.texts(
            [ids for _, _, ids in begun],
            self.way,
            max_new_tokens=self.config.max_new_tokens,
            seed=int.from_bytes(hashlib.sha256(name).digest()[:4], "big"),
        )
        rows = []
        for (given, opening, _), of_one in zip(begun, texts, strict=True):
            for written in of_one:
                whole = replace(
                    given,
                    text=_joined(given, opening, written),
                    id=f"{given.id}~{step}",
                    weight=given.weight * written.weight * len(of_one),
                    own=self.config.own,
                )
                cut = next(self.cutter.pieces([whole]), None)
                row = {"text": None} if cut is None else _row_of(cut)
                ended = written.stopped == "end"
                rows.append({**row, "ids": list(written.ids), "ended": ended})
        return rows


def _joined(given: TextSample, opening: Opening, written: Written) -> str:
    """The opening with what was written; it goes on where the model had not ended."""
    ended = written.stopped == "end"
    text = written.text if ended else written.text.rstrip(PARTIAL)
    if not opening.turns:
        whole = opening.text + text
        return whole if ended else Fragment(whole)
    turns = [*opening.turns, {"role": "assistant", "content": text}]
    asked = given.text
    assert isinstance(asked, Conversation), "only a conversation has turns"
    learned = None if asked.learned is None else [len(turns) - 1]
    return Conversation(turns, asked.joint, asked.today, not ended, learned)


def _row_of(sample: TextSample) -> dict[str, Any]:
    """A sample as JSON holds it."""
    text: Any = sample.text
    if isinstance(text, Conversation):
        text = {
            "messages": [dict(message) for message in text.messages],
            "joint": text.joint,
            "today": None if text.today is None else text.today.isoformat(),
            "goes_on": text.goes_on,
            "learned": text.learned,
        }
    return {
        "text": text,
        "goes_on": isinstance(sample.text, Fragment),
        "domain": sample.domain,
        "id": sample.id,
        "weight": sample.weight,
        "own": sample.own,
    }


def _sample_of(row: dict[str, Any]) -> TextSample:
    text = row["text"]
    if isinstance(text, dict):
        today = None if text["today"] is None else date.fromisoformat(text["today"])
        text = Conversation(
            text["messages"],
            text["joint"],
            today,
            text["goes_on"],
            text.get("learned"),  # earlier buffers did not say
        )
    elif row["goes_on"]:
        text = Fragment(text)
    return TextSample(
        text, row["domain"], row["id"], weight=row["weight"], own=row["own"]
    )
