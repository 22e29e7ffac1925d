"""Settings of a run's text."""

from __future__ import annotations

import datetime
import math
import re
import string
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from align.errors import InputError
from align.support.field_types import AtLeastOne, Positive, check_fields, shown
from align.text.conversation import Chats, Learn
from align.text.tool_calls import Tools
from student.curriculum.choice import chosen_curriculum
from teacher.writing.config import WrittenConfig

_DOMAIN = re.compile(r"(?:([\w-]+)=)?(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairsConfig:
    """Sentences with their translations, for a student that reads the one and writes
    the other: it learns the translation alone."""

    file: str | None = None
    """One file of pairs: lines with a tab between source and target, or JSON rows with
    ``source_key`` and ``target_key``."""
    source: str | None = None
    """In place of ``file``: a file of sentences, one a line."""
    target: str | None = None
    """With ``source``: a file of their translations, line by line."""
    eval_file: str | None = None
    """Held-out pairs, as ``file``; where none are given, ``data.eval_share`` of the
    pairs is held out."""
    eval_source: str | None = None
    """Held-out sentences, as ``source``."""
    eval_target: str | None = None
    """Their translations, as ``target``."""
    source_key: str = "source"
    """Key of the source in a row of JSON."""
    target_key: str = "target"
    """Key of the target in a row of JSON."""
    prompt: str = "{source} {pair}:"
    """What the student reads before the translation, which follows behind a blank:
    ``{source}`` is the sentence, ``{pair}`` the name of these pairs."""
    apart: bool = False
    """The student reads and learns the translation alone, without a prompt, and its
    teachers read the sentence alone: keys and values, and hidden states, are compared
    across the two, by ``links`` or by sentence."""
    links: str | None = None
    """With ``apart``, ``source`` and ``target``: a file with a line for each pair that
    says which words translate which, ``0-0 1-2``, numbers of words between blanks
    (Pharaoh format), as ``mtkd link`` writes them."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: not one of a file and of two files, or a prompt without source.
        """
        check_fields(self, "data.pairs")
        for prefix in ("", "eval_"):
            file, source, target = (
                getattr(self, f"{prefix}{name}")
                for name in ("file", "source", "target")
            )
            if bool(source) != bool(target) or (file and source):
                raise InputError(
                    f"data.pairs: give {prefix}file, or {prefix}source and "
                    f"{prefix}target, line by line"
                )
        if not (self.file or self.source):
            raise InputError("data.pairs: give file, or source and target")
        if self.links and not (self.apart and self.source):
            raise InputError(
                f"data.pairs: links is {shown(self.links)}; it goes with apart=true, "
                "and with source and target, line by line"
            )
        if self.apart and self.prompt != "{source} {pair}:":
            raise InputError(
                f"data.pairs: prompt is {shown(self.prompt)}, but with apart=true the "
                "student reads no prompt; leave it out"
            )
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.prompt)]
        except ValueError as error:
            raise InputError(
                f"data.pairs: prompt is {shown(self.prompt)} ({error}); write braces "
                "that stand for themselves twice"
            ) from error
        if "source" not in names or not {n for n in names if n} <= {"source", "pair"}:
            raise InputError(
                f"data.pairs: prompt is {shown(self.prompt)}; it must hold {{source}}, "
                "may hold {pair}, and no other name in braces"
            )

    def files(self, held_out: bool) -> tuple[str, ...]:
        """The one file or the two, of what is learned or held out; none where nothing
        is given."""
        prefix = "eval_" if held_out else ""
        names = (getattr(self, f"{prefix}{n}") for n in ("file", "source", "target"))
        return tuple(name for name in names if name)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Text to learn from and to be measured on."""

    train: list[str] = field(default_factory=lambda: ["zoo"])
    """Files or folders of text, ``domain=path`` to name a domain (else the file's
    name); relative to the folder the command runs in. Or ``zoo``, the embedded prose
    and code; or ``hf:ORG/NAME[:CONFIG][@SPLIT][#REVISION]``, a data set of the hub,
    whose commit the run keeps. docs/experiments.md lists the formats."""
    eval: list[str] = field(default_factory=list)
    """Held-out text, as ``train``; empty: ``eval_share`` of the training text."""
    pairs: dict[str, PairsConfig] = field(default_factory=dict)
    """Parallel text, by names such as ``en-de``, which are its domains: ``source``
    is read and ``target`` learned. Beside ``train``, which may be empty then."""
    eval_share: Annotated[float, Interval(gt=0, le=0.5)] = 0.1
    """Share of the training text held out where ``eval`` is empty, by whole documents
    where a domain has several."""
    overlap: Literal["drop", "refuse", "keep"] = "drop"
    """Training text that is held out, too, character by character, as a document or as
    a sample: ``drop`` does not train on it, ``refuse`` does not run, ``keep`` trains on
    it all the same. A pair counts as held out where its source is, whatever its
    translation."""
    learn_end: bool = True
    """Whether the student learns its end-of-text token after the last piece of every
    document, and of every conversation whose chat template does not end turns itself.
    Never after a cut. Bits per character do not count it."""
    learn: Learn = "all"
    """Whose contents of a conversation the student learns and is measured on:
    everybody's, the ``assistant``'s, or its last answer alone (``completion``); what is
    left out is read. A row without any is a bad row. Plain text is learned whole, of
    ``pairs`` the translation."""
    tools: Tools = "refuse"
    """A row with tools, their calls or answers is a bad row, or they are written out as
    ``text``, the same for every model."""
    text_field: str = "text"
    """Field of a row which holds the text; a row without ``text`` is also read by
    other fields, see docs/experiments.md."""
    weight_field: str | None = "weight"
    """Field of a row which holds what its text counts in every loss beside others', a
    number >= 0, as ``mtkd write`` writes it; rows without it count 1. null: none."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do with a row that holds no text to learn from, such as a tool call or a
    picture: ``stop`` before any work, or ``skip`` it and say how many."""
    chats: Chats = "template"
    """``template`` reads ``messages``, or ``prompt`` and ``completion``, in each
    model's own chat template and aligns their contents alone; ``plain`` makes one
    text of them."""
    date: str | None = None
    """Day that chat templates are told, such as 2026-11-28, where they write one;
    null: the day on which the run, or its extraction, began, which it keeps."""
    max_length: Annotated[int, Interval(ge=8)] = 128
    """Student tokens per sample, special ones included; longer texts are cut into
    several, at a token's end, and no character is lost; conversations lose their ends,
    and pairs whose prompt leaves no room for a translation are left out.
    A sample that makes more tokens of a teacher than this and than it was trained to
    read, or than it has positions, is cut further, for all alike (see
    ``teachers.NAME.long_texts``)."""
    hold: Literal["memory", "disk"] = "memory"
    """Where the cut texts lie while a run trains: with ``disk`` each process writes
    those to learn from to the cache folder once, for text larger than memory."""
    mix: dict[str, Positive] = field(default_factory=dict)
    """What domains weigh beside others: with 2 a domain's texts are read twice as often
    as they stand; those not named weigh 1. An epoch grows: no text is left out."""
    mix_temperature: Annotated[float, Interval(ge=1, le=math.inf)] = 1.0
    """Flattens the sizes of domains n to n ** (1 / this) before they are weighed: at
    1 they stay, at ``.inf`` what ``mix`` gives are the shares themselves."""
    train_samples: AtLeastOne | None = None
    """Use at most so many samples per domain; null for all."""
    eval_samples: AtLeastOne | None = 64
    """Measure on at most so many samples per domain; null for all."""
    written: WrittenConfig = field(default_factory=WrittenConfig)
    """Texts that the student, or a teacher, writes while phases train."""
    curriculum: str | dict[str, Any] = "none"
    """Which texts are read when, a registered curriculum: ``bands``, ``sigmoid``,
    ``competence``, ``domains``, ``adaptive`` or a plugin's, with options ``{use: NAME,
    difficulty: gap}``. ``rescore`` among them, true or optimiser steps, scores texts
    anew while a phase goes on. ``none``: each in its turn, in an order drawn from
    ``run.seed``."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take, no text, or no day.
        """
        check_fields(self, "data")
        chosen_curriculum(self.curriculum)
        if not self.train and not self.pairs:
            raise ValueError("data.train is empty; give paths, or [zoo]")
        if self.chats == "plain" and self.learn != "all":
            raise ValueError(
                f"data.learn is {self.learn}, but with data.chats=plain conversations "
                "are plain texts without turns; set data.chats=template"
            )
        try:
            if self.date is not None:
                datetime.date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(
                f"data.date is {shown(self.date)}; give a day such as 2026-11-28, or "
                "null"
            ) from None

    def sources(self, which: Literal["train", "eval"]) -> list[tuple[str | None, str]]:
        """Split ``domain=path`` entries: (domain or None, path or ``zoo``)."""
        return [named_apart(entry) for entry in getattr(self, which)]


def named_apart(entry: str) -> tuple[str | None, str]:
    """An entry of ``data.train`` or ``data.eval``: its domain, if any, and the rest."""
    match = _DOMAIN.fullmatch(entry)
    assert match is not None  # the pattern takes any text
    return match[1], match[2]
