"""What frozen teachers said of a batch, kept for whoever asks about it again.

The arms of a run read the same texts in the same order, and every phase calibrates on
the same ones. A teacher that stands still says the same of them each time, bit for bit,
so that its model need run only once. What is kept goes into memory up to a bound,
beyond it into files up to another, and what has no room is asked again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from align.kv import KV
from align.reading import Reading
from align.views import STATES, Asked, ForetoldTokens, Output, Teacher, TeacherView


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What of a view comes out of the teacher's model; the rest is its reading's."""

    parts: Mapping[str, Tensor]
    """By name; those that it has."""

    @classmethod
    def of(cls, view: TeacherView) -> _Answer:
        """Of a view, as it lies there."""
        every = {
            "k": None if view.kv is None else view.kv.k,
            "v": None if view.kv is None else view.kv.v,
            "attention": view.attention,
            "heads": view.attention_heads,
            "bits": view.bits_per_char,
            "foretold": None if view.foretold is None else view.foretold.log_probs,
            "hidden": None if view.output is None else view.output.hidden,
            **{_part(kind): states for kind, states in view.states.items()},
        }
        return cls(
            parts={name: part for name, part in every.items() if part is not None}
        )

    def copied(self) -> _Answer:
        """In memory of its own, with the same strides: products of other strides may
        differ in the last bit."""
        return _Answer(
            parts={
                name: part.detach().to("cpu", copy=True)
                for name, part in self.parts.items()
            }
        )

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.nbytes for part in self.parts.values())

    def view(
        self, teacher: Teacher, reading: Reading, wanted: Collection[str]
    ) -> TeacherView:
        """The wanted parts of it, as the teacher would say them now."""
        home = reading.student.ids.device
        parts = {name: self.parts[name].to(home) for name in wanted}
        view = TeacherView(
            name=teacher.name,
            kv=KV(parts["k"], parts["v"], reading.mask) if "k" in wanted else None,
            alignment=reading.alignment,
            causal=reading.causal,
            attention=parts.get("attention"),
            attention_heads=parts.get("heads"),
            bits_per_char=parts.get("bits"),
            states={k: parts[_part(k)] for k in sorted(STATES) if _part(k) in parts},
        )
        if "foretold" in wanted:
            assert reading.tokens is not None
            foretold = ForetoldTokens(reading.tokens, parts["foretold"])
            view = replace(view, foretold=foretold)
        if "hidden" not in wanted:
            return view
        assert reading.tokens is not None
        hidden = parts["hidden"]
        output = Output(reading.tokens, hidden, teacher.head, teacher.vocabulary)
        return replace(view, output=output)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where an answer is kept."""

    chapter: str
    teacher: str
    gives: frozenset[str]
    """Names of its parts."""
    size: int
    answer: _Answer | None
    """None where it is in the file."""
    file: Path


class Answers:
    """Asks teachers, and remembers what they said; see the top of this file."""

    def __init__(
        self, teachers: Collection[str], folder: Path, *, memory: int, disk: int
    ) -> None:
        """Remember nothing yet.

        Args:
            teachers: names of those that are remembered; the others are only asked.
            folder: for files, of this process alone; made when it is needed.
            memory: most bytes that are held in memory.
            disk: most bytes of files.
        """
        self._teachers = frozenset(teachers)
        self._folder, self._room = folder, {True: memory, False: disk}
        self._places: dict[str, _Place] = {}
        self._chapter, self._keep = "", frozenset[str]()

    @contextmanager
    def during(
        self, chapter: str, keep: Collection[str], again: Collection[str]
    ) -> Iterator[None]:
        """Say what is read meanwhile, and whom it is asked of afterwards.

        Args:
            chapter: a name of these texts.
            keep: teachers whose answers are kept.
            again: those who are asked about the chapter after this; what the others
                said of it is forgotten at the end.
        """
        self._chapter, self._keep = chapter, self._teachers & frozenset(keep)
        try:
            yield
        finally:
            self._chapter, self._keep = "", frozenset()
            done = [
                key
                for key, place in self._places.items()
                if place.chapter == chapter and place.teacher not in again
            ]
            for key in done:
                self._forget(key)

    def ask(
        self, teacher: Teacher, reading: Reading, rows: Tensor | None, asked: Asked
    ) -> TeacherView:
        """See :meth:`align.views.Teacher.ask`; the model runs where nothing is kept."""
        if teacher.name not in self._teachers or reading.tokens is None:
            return teacher.ask(reading, rows, asked)
        key = _key(teacher.name, reading, rows, asked)
        place = self._places.get(key)
        wanted = _wanted(reading, rows, asked)
        if place is not None and wanted <= place.gives:
            return self._read(place).view(teacher, reading, wanted)
        view = teacher.ask(reading, rows, asked)
        if teacher.name in self._keep:
            self._forget(key)  # what said less
            self._hold(key, teacher.name, _Answer.of(view).copied())
        return view

    @property
    def held(self) -> dict[str, int]:
        """Bytes that are kept in ``memory`` and on ``disk``."""
        every = self._places.values()
        return {
            "memory": sum(place.size for place in every if place.answer),
            "disk": sum(place.size for place in every if not place.answer),
        }

    def close(self) -> None:
        """Forget everything."""
        for key in list(self._places):
            self._forget(key)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _hold(self, key: str, teacher: str, answer: _Answer) -> None:
        size, file = answer.size, self._folder / f"{key}.pt"
        if not size:
            return
        in_memory = size <= self._room[True]
        if not in_memory and not self._written(answer, size, file):
            return
        self._room[in_memory] -= size
        self._places[key] = _Place(
            chapter=self._chapter,
            teacher=teacher,
            gives=frozenset(answer.parts),
            size=size,
            answer=answer if in_memory else None,
            file=file,
        )

    def _written(self, answer: _Answer, size: int, file: Path) -> bool:
        if size > self._room[False]:
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            torch.save(answer.parts, file)  # with their strides
        except (OSError, RuntimeError):  # PyTorch's own of a full disk
            # Nothing is lost by it: the teacher is asked again.
            with suppress(OSError):
                file.unlink(missing_ok=True)
            self._room[False] = 0
            return False
        return True

    def _read(self, place: _Place) -> _Answer:
        if place.answer is not None:
            return place.answer
        return _Answer(parts=torch.load(place.file, weights_only=True))

    def _forget(self, key: str) -> None:
        place = self._places.pop(key, None)
        if place is None:
            return
        self._room[place.answer is not None] += place.size
        if place.answer is None:
            place.file.unlink(missing_ok=True)


def answer_bytes(view: TeacherView) -> int:
    """What keeping one teacher's answer takes."""
    return _Answer.of(view).size


def _wanted(reading: Reading, rows: Tensor | None, asked: Asked) -> frozenset[str]:
    """Names of an answer's parts."""
    wanted = {
        "k": asked.kv,
        "v": asked.kv,
        "attention": reading.attention and rows is not None,
        "heads": reading.heads and rows is not None,
        "bits": reading.bits,
        "foretold": reading.foretold,
        "hidden": asked.output,
    }
    states = [_part(kind) for kind in asked.states]
    return frozenset(states).union(name for name, on in wanted.items() if on)


def _part(state: str) -> str:
    """What an answer calls one of ``STATES``; ``hidden`` is the last one's output."""
    return f"states.{state}"


def _key(name: str, reading: Reading, rows: Tensor | None, asked: Asked) -> str:
    """A digest of all that an answer depends on, but for which parts it has.

    Of texts that is what the model reads, the whole batch with its padding, and of
    attention, which comes on the student's tokens, also the way there.
    """
    assert reading.tokens is not None
    tokens = reading.tokens
    inputs = [tokens.ids, tokens.mask, tokens.spans]
    if reading.attention and rows is not None:
        alignment = reading.alignment
        inputs += [rows, reading.student.mask, reading.readable]
        inputs += [alignment.rows, alignment.cols, alignment.weights]
        inputs += [] if alignment.shared is None else [alignment.shared]
    digest = hashlib.sha256(f"{name} {asked.layers} {asked.autocast}".encode())
    for tensor in inputs:
        digest.update(f" {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
