"""The sections of a run's config which belong to no single package.

Alignment, fusion, objective, loop, a teacher and a phase's choice of teachers keep
theirs beside their code: ``align.config``, ``fuse.config``, ``student.config``,
``teacher.teacher_config`` and ``teacher.teacher_rule``, where plugins' phases are
checked against them, too.
"""

from __future__ import annotations

import datetime
import re
import string
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from align.config import AlignConfig
from align.errors import InputError
from align.support.field_types import (
    AtLeastOne,
    Count,
    check_fields,
    shown,
)
from align.text.conversation import Chats
from fuse.config import FuseConfig, choice_of
from student.config import LoraConfig, LossConfig, TrainConfig
from student.output_config import OutputConfig
from student.transforms.choice import chosen_transforms
from teacher.names import check_length
from teacher.store.manifest import Form
from teacher.teacher_config import Quantisation
from teacher.teacher_rule import TeacherRule
from teacher.writing.config import WrittenConfig

Trained = Literal["all", "embeddings"]
"""Which weights of the student move, see :func:`student.trained.train_embeddings`."""

_DOMAIN = re.compile(r"(?:([\w-]+)=)?(.*)", re.DOTALL)


def check_folder_name(section: str, name: str) -> None:
    """See that a name is that of one folder, and misleads nobody.

    Raises:
        ValueError: says which setting, and what it may be.
    """
    plain = name not in ("", ".", "..") and not set(name) & set("/\\")
    if not plain or name[0] in "-~" or not name.isprintable():
        raise ValueError(
            f"{section}.name is {shown(name)}; give a folder name without '/', not "
            "'..', that does not begin with '-' or '~' and holds no control "
            f"characters, and its parent in {section}.dir"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What the run is called and where it is written."""

    name: str = "run"
    """Folder of this run under ``dir``."""
    dir: str = "runs"
    """Folder which holds runs."""
    seed: Count = 0
    """Seeds data order, dropout, what is trained beside the student and, with
    ``student.init: fresh``, the student itself."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take, or no plain folder name.
        """
        check_fields(self, "run")
        check_folder_name("run", self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """The model that learns."""

    model: str = "zoo:student"
    """Hub name, local folder, ``zoo:<name>`` or ``pkg:<name>``."""
    make: str | dict[str, Any] = "none"
    """The student is first made of ``model`` by leaving parts of it out: a registered
    maker with its options, such as ``{use: layers, keep: 15, rule: uniform}``; what
    judges by text reads some of ``data.train``. Made once and kept in the cache;
    ``model`` then is ``made:`` and a digest, and ``of`` in here what it was made of.
    ``none``: ``model`` is the student as it is."""
    init: Literal["checkpoint", "fresh"] = "checkpoint"
    """Where its weights come from: the model's checkpoint, or drawn anew from
    ``run.seed`` as the architecture draws them (its config and tokenizer are enough
    then), so that runs with several seeds train several students."""
    tokenizer: str | None = None
    """With ``init: fresh`` the tokenizer it gets in place of its model's: a teacher's
    name, or a model or folder as ``model``. A teacher of its vocabulary teaches most
    (``output.kd``); pretrained weights are given one by ``mtkd adapt``."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type its weights are trained in; ``train.bf16`` is the cheaper choice. With
    ``lora`` of the frozen weights: what is trained is float32."""
    export_dtype: Literal["checkpoint", "float32", "bfloat16", "float16"] = "checkpoint"
    """Type of the weights in the run's ``student/``: as in the files it came from, or
    this one. What every phase leaves keeps the type it was trained in."""
    quantise: Quantisation = "none"
    """How its linear layers are held: as loaded, in 8 bits, or in 4 (NF4; needs the
    extra ``quant``). What is quantised stands still, so ``lora.rank`` must be set."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank updates; needs the extra ``quant``."""
    transform: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What it computes by while it trains, by a name of your choice: ``{use: KIND,
    strength: 1}`` with the kind's options beside, as ``fake_quant: {bits: 4, strength:
    {from: 0, to: 1}}``; ``use`` is the name itself where it is not given, and a later
    one works on what earlier ones make. What a phase leaves are the weights it computed
    by. Not with ``lora``, ``trained: embeddings`` or ZeRO 3."""
    trained: Trained = "all"
    """Which of its weights learn: ``all`` (with ``lora`` its updates alone), or its
    ``embeddings``, that is embedding and head, beside the updates if there are any."""

    def __post_init__(self) -> None:
        """Check every field, and that something can be trained.

        Raises:
            ValueError: a value that its type does not take, another tokenizer for
                trained weights, or the weights are quantised and there are no updates.
        """
        check_fields(self, "student")
        choice_of("student.make", self.make)
        chosen_transforms(self.transform)
        check_length(self.model, "student.model")
        if self.tokenizer is not None and self.init != "fresh":
            raise ValueError(
                f"student.tokenizer is {self.tokenizer}, but the checkpoint's weights "
                "know other tokens; set student.init=fresh to begin without them, or "
                f"run `mtkd adapt {self.model} --to {self.tokenizer}` and take what it "
                "makes as student.model"
            )
        if self.quantise != "none" and not self.lora.rank:
            raise ValueError(
                f"student.quantise={self.quantise} freezes the student's weights, and "
                "nothing would be trained; set student.lora.rank=16 to train low-rank "
                "updates beside them, or student.quantise=none"
            )


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
    and code. docs/experiments.md lists the formats."""
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
    train_samples: AtLeastOne | None = None
    """Use at most so many samples per domain; null for all."""
    eval_samples: AtLeastOne | None = 64
    """Measure on at most so many samples per domain; null for all."""
    written: WrittenConfig = field(default_factory=WrittenConfig)
    """Texts that the student, or a teacher, writes while phases train."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take, no text, or no day.
        """
        check_fields(self, "data")
        if not self.train and not self.pairs:
            raise ValueError("data.train is empty; give paths, or [zoo]")
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
        pairs = []
        for entry in getattr(self, which):
            match = _DOMAIN.fullmatch(entry)
            assert match is not None  # the pattern takes any text
            pairs.append((match[1], match[2]))
        return pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreConfig:
    """Teachers' keys and values, and outputs, on disk: written by ``mtkd extract``,
    read by runs."""

    dir: str = "kv"
    """Folder which holds stores."""
    name: str | None = None
    """Folder of this store under ``dir``; null: the run's name."""
    read: bool | list[str] = False
    """Train from the store, without loading the teachers it holds: true for all that
    are stored, or the names of those to read; the others are loaded and asked live."""
    form: Form = "raw"
    """What is stored: teachers' own tokens and sizes, their sizes on the student's
    tokens, the student's sizes (by calibrated adapters), or all teachers in one
    (where weights are fixed). Each is smaller and fits fewer runs than the last."""
    encoding: Literal["float32", "bfloat16", "int8", "int4", "lowrank"] = "bfloat16"
    """How numbers become bytes."""
    rank: AtLeastOne | None = None
    """Components that ``lowrank`` keeps; null: half the width."""
    top_k: Count = 0
    """Also store the next-token outputs of teachers that phases learn from by them: so
    many likeliest tokens a place with their log-probabilities, the one that came, and
    the mass of all others; 0: none. Takes the form ``raw``."""
    log_probs: Literal["int8", "float16"] = "int8"
    """What these log-probabilities are kept in."""
    zstd: Annotated[int, Interval(ge=1, le=19)] | None = None
    """Level of lossless compression on top; null for none."""
    shard_samples: AtLeastOne = 64
    """Texts in a shard: what a killed task loses, and twice what it holds in
    memory."""
    batch_size: AtLeastOne = 8
    """Texts per forward pass of a teacher."""
    on_non_finite: Literal["stop", "skip"] = "stop"
    """What happens where a teacher's KV are not finite: stop, or leave the text out
    for that teacher and say so."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take, a name that is no folder's,
                or a rank with an encoding that has none.
        """
        check_fields(self, "store")
        if isinstance(self.read, list) and self.form == "fused":
            raise ValueError(
                f"store.read names {', '.join(self.read)}, but with store.form=fused "
                "all teachers are one; set store.read=true"
            )
        if self.top_k and self.form != "raw":
            raise ValueError(
                f"store.top_k is {self.top_k} with form {self.form}, but outputs lie "
                "on teachers' own tokens; give form raw, or top_k 0"
            )
        if self.name is not None:
            check_folder_name("store", self.name)
        if self.rank is not None and self.encoding != "lowrank":
            raise ValueError(
                f"store.rank is {self.rank} with encoding {self.encoding}; give "
                "encoding lowrank, or rank null"
            )

    def reads(self, teacher: str) -> bool:
        """Whether a teacher is read from the store, where it is in it."""
        return teacher in self.read if isinstance(self.read, list) else self.read


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseSections:
    """The sections a phase may set; each is any subset of the general one."""

    title: str = ""
    """One line for tables and pictures."""
    like: str = ""
    """Phase whose preset it takes: for one with a name of your own, or for all such by
    ``phase.all.like``."""
    begins: Literal["last", "start", "anew"] = "last"
    """The student that it trains: the one that the ``last`` phase left, that of the
    run's ``start``, or one drawn ``anew``, from another seed in every phase (needs
    ``student.init: fresh``)."""
    transform: dict[str, dict[str, Any]] | None = None
    """In place of ``student.transform``: ``{}`` for none; null: that."""
    teachers: TeacherRule = field(default_factory=TeacherRule)
    """Which teachers it takes."""
    align: AlignConfig = field(default_factory=AlignConfig)
    """Alignment."""
    fuse: FuseConfig = field(default_factory=FuseConfig)
    """Fusion."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Objective."""
    output: OutputConfig = field(default_factory=OutputConfig)
    """Objectives on next-token distributions."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Loop."""
