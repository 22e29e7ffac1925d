"""The sections of a run's config which belong to no single package.

Alignment, fusion, objective, loop, a teacher and a phase's choice of teachers keep
theirs beside their code: ``align.config``, ``fuse.config``, ``student.config``,
``teacher.teacher_config`` and ``teacher.teacher_rule``, where plugins' phases are
checked against them, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from align.config import AlignConfig
from align.support.field_types import (
    AtLeastOne,
    Count,
    check_fields,
    shown,
)
from fuse.config import FuseConfig, choice_of
from student.config import LoraConfig, LossConfig, TrainConfig
from student.output_config import OutputConfig
from student.transforms.choice import chosen_transforms
from teacher.names import at_revision, check_length
from teacher.store.manifest import Form
from teacher.teacher_config import AttentionImplementation, Quantisation
from teacher.teacher_rule import TeacherRule

Trained = Literal["all", "embeddings"]
"""Which weights of the student move, see :func:`student.trained.train_embeddings`."""


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
    revision: str | None = None
    """Branch, tag or commit of a hub model; joined to ``model``, as a teacher's."""
    trust_remote_code: bool = False
    """Run the Python files that come with ``model``, as of a teacher. What a run leaves
    carries them. Not with ``make``."""
    attn_implementation: AttentionImplementation = "auto"
    """As a teacher's."""
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
        named = at_revision(self.model, self.revision, "student")
        object.__setattr__(self, "model", named)  # frozen
        object.__setattr__(self, "revision", None)
        if self.tokenizer is not None and self.init != "fresh":
            raise ValueError(
                f"student.tokenizer is {self.tokenizer}, but the checkpoint's weights "
                "know other tokens; set student.init=fresh to begin without them, or "
                f"run `mtkd adapt {self.model} --to {self.tokenizer}` and take what it "
                "makes as student.model"
            )
        if self.trust_remote_code and self.make != "none":
            raise ValueError(
                "student.trust_remote_code and student.make: a model with code of its "
                "own is left as it is; set student.make=none"
            )
        if self.quantise != "none" and not self.lora.rank:
            raise ValueError(
                f"student.quantise={self.quantise} freezes the student's weights, and "
                "nothing would be trained; set student.lora.rank=16 to train low-rank "
                "updates beside them, or student.quantise=none"
            )


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
