"""What a process that holds teachers does: it answers those that train."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from align.rope_scale import Rescale
from teacher.distant.teacher import ERRORS, facts_of
from teacher.distant.wire import HERE, LEAVE, Line, LineGoneError, Message, pack
from teacher.live_teacher import LiveTeacher
from teacher.making.base import Sample
from teacher.own_loss import next_token_nll

Open = Callable[[Mapping[str, Any]], LiveTeacher]
"""Loads a teacher as a question of kind ``open`` says."""


def answer_all(
    lines: Iterable[Line], opened: Open, scaler: Rescale
) -> dict[int, LineGoneError]:
    """Answer processes that train, until all of them have left or are gone.

    Args:
        lines: to each of them.
        opened: loads a teacher; the same one is loaded once.
        scaler: lets teachers read longer texts.

    Returns:
        Those that were gone without having left, with how that was seen.
    """
    desk = Desk(opened=opened, scaler=scaler)
    gone: dict[int, LineGoneError] = {}

    def serve(line: Line) -> None:
        try:
            while (question := line.receive()).head["what"] != LEAVE:
                if question.head["what"] != HERE:
                    line.send(desk.answer(question))
        except LineGoneError as error:
            gone[line.other] = error

    threads = [threading.Thread(target=serve, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return gone


@dataclass(frozen=True, kw_only=True, eq=False)
class Desk:
    """The teachers of one process, and who answers for them; one question at a time,
    as there is one device."""

    opened: Open
    scaler: Rescale
    _teachers: dict[str, LiveTeacher] = field(default_factory=dict)
    _extended: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """How, and whether that changed anything."""
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @torch.no_grad()
    def answer(self, question: Message) -> Tensor:
        """Answer one question, packed; what goes wrong is the answer, too.

        What a GPU fails with shows only when its numbers are brought to the CPU.
        """
        kinds: dict[str, Callable[[Message], Message]] = {
            "open": self._open,
            "look": self._look,
            "head": self._head,
            "extend": self._extend,
            "importance": self._importance,
        }
        try:
            with self._turn:
                return pack(kinds[question.head["what"]](question))
        except Exception as error:
            kind = next(
                (c.__name__ for c in type(error).mro() if c.__name__ in ERRORS), ""
            )
            if not kind:  # its own place is known here alone
                traceback.print_exc()
            return pack(Message({"error": [kind or type(error).__name__, str(error)]}))

    def _of(self, question: Message) -> LiveTeacher:
        return self._teachers[question.head["key"]]

    def _open(self, question: Message) -> Message:
        key = question.head["key"]
        if key not in self._teachers:
            self._teachers[key] = self.opened(question.head)
        return Message({"facts": {"key": key, **facts_of(self._of(question))}})

    def _look(self, question: Message) -> Message:
        asked, capture = question.head, self._of(question).capture
        tensors = {n: t.to(capture.device) for n, t in question.tensors.items()}
        ids, mask = tensors["ids"], tensors["mask"]
        name = asked["autocast"]
        dtype = name and getattr(torch, name.removeprefix("torch."))
        with torch.autocast(
            capture.device.type, dtype=dtype, enabled=dtype is not None
        ):
            captured = capture(
                ids,
                mask,
                layers=asked["layers"],
                logits=asked["logits"] or asked["nll"],
                hidden=asked["hidden"],
                attention_rows=tensors.get("rows"),
                heads=asked["heads"],
                states=asked["states"],
            )
            parts: dict[str, Tensor | None] = {
                "k": captured.kv.k,
                "v": captured.kv.v,
                "hidden": captured.hidden,
                "attention": captured.attention,
                "attention_heads": captured.attention_heads,
                **{f"states.{name}": x for name, x in captured.states.items()},
            }
            if asked["logits"]:
                parts["logits"] = captured.logits
            if asked["nll"] and captured.logits is not None:
                parts["nll"] = next_token_nll(captured.logits, ids, mask)
        return Message({}, {n: x for n, x in parts.items() if x is not None})

    def _head(self, question: Message) -> Message:
        head = self._of(question).head
        bias = {} if head.bias is None else {"bias": head.bias}
        return Message({}, {"weight": head.weight, **bias})

    def _extend(self, question: Message) -> Message:
        key, tokens = question.head["key"], question.head["tokens"]
        if key not in self._extended:  # every process that trains asks for it
            changed = self._of(question).extend(
                tokens, self.scaler, question.head["linear"]
            )
            self._extended[key] = tokens, changed
        reads, changed = self._extended[key]
        if reads != tokens:
            raise ValueError(f"{key} was made to read {reads} tokens, not {tokens}")
        return Message({"changed": changed})

    def _importance(self, question: Message) -> Message:
        teacher, sent = self._of(question), question.tensors
        there = {n: t.to(teacher.capture.device) for n, t in sent.items()}
        count = question.head["batches"]
        sample = Sample(
            tuple((there[f"ids{n}"], there[f"mask{n}"]) for n in range(count))
        )
        with torch.enable_grad():
            importance = teacher.judged(sample)
        return Message({}, {"importance": importance})
