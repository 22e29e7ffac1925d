"""The models of a run: named in the config, loaded once, checked before work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from align.errors import InputError, prefix_errors
from align.rope_scale import Rescale
from align.support.quiet import quiet_libraries
from align.text.chat import tells_date
from align.text.documents import TextSample
from align.tokens.cut import Reader
from align.views import Teacher
from experiments.assemble.checks import check_causal, check_positions
from experiments.assemble.data import Encoder, fitting_length
from experiments.assemble.fingerprint import notices_of_student
from experiments.assemble.layer_maps import layers_without_kv
from experiments.assemble.lengths import PLACE, Lengths, reads_at_most, ways_to_read
from experiments.assemble.precision import export_dtypes
from experiments.assemble.stored_teachers import stored_teachers, teacher_of_store
from experiments.config.tree import Config
from experiments.sources.distant import Distant
from experiments.sources.making import Making, tell_code
from experiments.sources.named import sources_of
from student.checkpoint import (
    atomic_folder,
    cast_weights,
    export_student,
    make_readable,
    mark_complete,
)
from student.evaluators.exits import write_exits
from student.lora import add_adapters, load_adapter, merge_adapters, save_adapter
from student.trained import train_embeddings
from student.transforms import is_transformed, put_transformed
from student.unreached import freeze_unreached
from teacher.capture.pair_capture import capture_of
from teacher.live_teacher import LiveTeacher
from teacher.loading.longer_texts import trained_length
from teacher.loading.models import LoadedModel, load_model
from teacher.loading.quantise import quantise
from teacher.loading.shard import is_sharded
from teacher.loading.vouched import check_vouched
from teacher.sources.base import TeacherSource
from teacher.sources.peers import Peer
from teacher.store import KVStore
from teacher.store.facts import FUSED
from teacher.stored_teacher import StoredTeacher

ADAPTER = "adapter"
"""Folder of a student's low-rank updates, inside that of the student they are in."""


class Models:
    """The student's origin and the loaded teachers."""

    def __init__(
        self,
        config: Config,
        device: torch.device,
        sources: Mapping[str, TeacherSource] | None = None,
        distant: Distant | None = None,
    ) -> None:
        """Load every teacher and the student's tokenizer.

        Args:
            config: the run.
            device: where models go.
            sources: where each teacher comes from; None: as what is built in says.
            distant: ranks that hold teachers; None: this process holds its own.

        Raises:
            ValueError: a model is missing, damaged or unsupported.
        """
        quiet_libraries()
        self._config, self._device, self._distant = config, device, distant
        self.student_tokenizer: Any = None  # the first student's is all others'
        with prefix_errors("student"):
            tell_code("student", config.student, config.student.model)
            first = self._load_student(None)
            self.student_bytes = sum(p.nbytes for p in first.model.parameters())
            capture = capture_of(self._adapted(first.model))
        self.student_sizes, self.student_layers = capture.sizes, capture.num_layers
        self.student_tokenizer = first.tokenizer
        most, learn_end = config.data.max_length, config.data.learn_end
        self.encode = Encoder(first.tokenizer, most, learn_end, capture.start)
        self.student_kind = first.kind
        check_positions(config, capture.max_tokens)
        self.stored: dict[str, StoredTeacher] = (
            stored_teachers(config, first.tokenizer) if config.store.read else {}
        )
        """Teachers that are read from a store."""
        self.sources = sources_of(config) if sources is None else sources
        """Where each teacher comes from."""
        self.live: dict[str, LiveTeacher] = {}
        """Teachers that are loaded."""
        self.elsewhere: dict[str, Teacher] = {}
        """Teachers whose source neither loads a model nor reads the run's store."""
        for name in config.teachers:
            if name not in self.stored:
                self._open(name)

    def student(self, source: str | Path | None, seed: int | None = None) -> Any:
        """A student to train: the config's, or the one a phase left in a folder.

        With ``student.lora`` the config's, quantised, with the updates beside a phase's
        student. What no loss reaches is frozen; ``seed`` draws in place of the run's.
        """
        if not self._config.student.lora.rank:
            model = self._adapted(self._load_student(source, seed).model)
        else:
            model = self._adapted(self._load_student(None).model)
            if source is not None:
                check_vouched(str(source), source)
                load_adapter(model, Path(source) / ADAPTER)
        freeze_unreached(model)
        return model

    def save_student(
        self,
        model: Any,
        path: Path,
        last: bool = False,
        exits: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        """Save a student as plain transformers loads it.

        Updates are merged into unquantised weights, and kept beside them. Of a
        transformed student it is what it computes by.

        Args:
            model: from :meth:`student`, trained.
            path: folder, replaced as a whole.
            last: no phase goes on from it: weights, ``model``'s too, get the types of
                ``student.export_dtype``, and the folder a marker.
            exits: heads of lower layers, see :mod:`student.evaluators.exits`.
        """
        whole, adapted = model, bool(self._config.student.lora.rank)
        notices = notices_of_student(self._config)
        if adapted or is_transformed(model):
            whole = self._load_student(None).model
            (merge_adapters if adapted else put_transformed)(model, whole)
        if last:
            cast_weights(whole, export_dtypes(self._config.student, whole))
        with atomic_folder(path) as folder:
            export_student(whole, self.student_tokenizer, folder, notices)
            if adapted:
                save_adapter(model, folder / ADAPTER)
            write_exits(exits or {}, folder)
            if last:  # for a phase's its own marker vouches
                mark_complete(folder, {})
            make_readable(folder)

    @property
    def teachers(self) -> dict[str, Teacher]:
        """Every teacher by its name, in the order of the config; a fused one last."""
        every: dict[str, Teacher] = {**self.stored, **self.live, **self.elsewhere}
        ordered = dict.fromkeys([*self._config.teachers, *every])
        return {name: every[name] for name in ordered}

    def teacher(self, name: str) -> Teacher:
        """A teacher by its name in the config, live or stored."""
        return self.teachers[name]

    def chosen(self, names: Iterable[str]) -> dict[str, Teacher]:
        """Teachers by their names, in that order."""
        every = self.teachers
        return {name: every[name] for name in names}

    def load_missing(self, taken: Iterable[str]) -> list[str]:
        """Load what phases take and the store does not hold.

        Args:
            taken: the teachers that the phases of the run choose.

        Returns:
            A sentence on every teacher that ``store.read=true`` finds no store of.
        """
        if self._config.store.form != FUSED:
            for name in dict.fromkeys(taken):
                if name in self.stored and self.stored[name].store is None:
                    self._open(name)
                    del self.stored[name]
        if self._config.store.read is not True:
            return []
        return [
            f"teacher {name!r} has no store in {self._config.store_dir} and is asked "
            "live; `mtkd extract` with this config stores it, and store.read names "
            "the teachers to read where that is meant"
            for name in self._config.teachers
            if name in self.live
        ]

    @property
    def stores(self) -> list[KVStore]:
        """What is read in place of teachers, each once."""
        held = [teacher.store for teacher in self.stored.values()]
        return list({store.path: store for store in held if store}.values())

    @property
    def tells_date(self) -> bool:
        """Whether a chat template, the student's or a teacher's, writes the day."""
        every = (teacher.tokenizer for teacher in self.teachers.values())
        return any(map(tells_date, [self.student_tokenizer, *every]))

    def left_out(self) -> list[str]:
        """A sentence on each teacher that has layers without KV of their own."""
        return layers_without_kv(self.live)

    @property
    def standing(self) -> dict[str, LiveTeacher]:
        """Loaded teachers that are the same in every phase and arm."""
        changing = {n for n, s in self.sources.items() if s.of_student or s.moves}
        return {name: t for name, t in self.live.items() if name not in changing}

    @property
    def sharded(self) -> tuple[str, ...]:
        """Names of the teachers that all processes hold and run together."""
        every = self.live.items()
        return tuple(
            name for name, teacher in every if is_sharded(teacher.loaded.model)
        )

    def readers(self) -> list[Reader]:
        """The teachers that limit how long a text may be; see :func:`reads_at_most`."""
        readers = []
        for name, teacher in self.teachers.items():
            if (limit := self._limit(name)) is not None:
                read = Encoder.as_asked(teacher)
                readers.append(Reader(f"{PLACE}{name}", read, limit))
        return readers

    def _limit(self, name: str) -> int | None:
        """Tokens of a teacher at which texts are cut; None for any number."""
        if name in self.stored:
            return self.stored[name].reads_at_most
        of_student = name not in self.live or self.sources[name].of_student
        if of_student or self._config.teachers[name].long_texts != "extend":
            return None
        teacher, most = self.live[name], self._config.data.max_length
        return reads_at_most(teacher.loaded.model, teacher.capture.max_tokens, most)

    def fit_lengths(self, samples: Iterable[TextSample], scaler: Rescale) -> list[str]:
        """Make sure, before any work, that every live teacher can read the texts.

        Of stored ones it was seen to when they were extracted.

        Rotary teachers that were trained on shorter texts get the scaler's base, unless
        their ``long_texts`` says otherwise.

        Args:
            samples: all texts of the run.
            scaler: from ``align.rope_scaling_method``.

        Returns:
            A sentence on every teacher whose rotation was changed.

        Raises:
            ValueError: a teacher cannot read a text, or none at all; names both.
        """
        if not self.live:
            return []
        lengths = self.lengths()
        for sample in samples:
            lengths.see(sample)
        return self.settle_lengths(lengths, scaler)

    def lengths(self) -> Lengths:
        """What will know the longest text of every live teacher."""
        teachers = self.live.items()
        readers = {n: (Encoder.as_asked(t), self._enough(n)) for n, t in teachers}
        return Lengths(readers)

    def _enough(self, name: str) -> int | None:
        """Tokens that a teacher reads as it is; None where that is any number."""
        if self.sources[name].of_student:
            return None  # it reads what the student reads
        capture = self.live[name].capture
        if capture.windows is not None:
            return capture.windows.tokens
        return capture.max_tokens or trained_length(capture.model)

    def settle_lengths(self, lengths: Lengths, scaler: Rescale) -> list[str]:
        """:meth:`fit_lengths` of texts that were seen."""
        linear = self._config.align.rope_scaling_method == "linear"
        notes = []
        for name, teacher in self.live.items():
            capture = teacher.capture
            if not lengths.holds_text(name):
                raise InputError(
                    f"teacher {name!r} covers no token of the student: its tokenizer "
                    f"finds nothing in any text, such as {lengths.some[:40]!r}; check "
                    "its tokenizer.json, or leave the teacher out"
                )
            most, sample = lengths.most[name]
            limit, entry = self._enough(name), self._config.teachers[name]
            choice = entry.long_texts
            if limit is None or most <= limit or choice == "window":
                continue
            peer = isinstance(self.sources[name], Peer)
            if peer or choice == "refuse" or capture.max_tokens is not None:
                cuts = capture.max_tokens is not None
                cuts = cuts or self._config.data.max_length <= limit
                ways = "" if peer else ways_to_read(name, entry, cuts)
                ways = f"set {w}or " if (w := ways + self._fitting(name, limit)) else ""
                has = (
                    f"was trained on {limit} tokens"
                    if capture.max_tokens is None
                    else f"has {limit} positions"
                )
                raise InputError(
                    f"teacher {name!r} {has}, but text {sample} makes {most} of its "
                    f"tokens; {ways}leave the teacher out"
                )
            if teacher.extend(most, scaler, linear):
                notes.append(
                    f"teacher {name!r} was trained on {limit} tokens and text {sample} "
                    f"has {most} of them: its rotation is slowed down "
                    f"({self._config.align.rope_scaling_method}, factor "
                    f"{most / limit:.2f}) for all texts; a data.max_length of at most "
                    f"{limit} leaves it as it is"
                )
        return notes

    def _fitting(self, name: str, limit: int) -> str:
        """The ``data.max_length`` with which a teacher reads every text, in words."""
        read = Encoder.as_asked(self.live[name])
        reader = Reader(f"{PLACE}{name}", read, limit)
        fitting = fitting_length(self._config.data, self.encode, reader)
        return "" if fitting is None else f"data.max_length={fitting}, "

    def _load_student(
        self, source: str | Path | None, seed: int | None = None
    ) -> LoadedModel:
        """A phase's student; of None the one that every arm and launch starts from."""
        settings = self._config.student
        name = settings.model if source is None else str(source)
        fresh = source is None and settings.init == "fresh"
        drawn_from = self._config.run.seed if seed is None else seed
        loaded = load_model(
            name,
            role="student",
            dtype=getattr(torch, settings.dtype),
            init_seed=drawn_from if fresh else None,
            vocabulary=self._config.vocabulary if fresh else None,
            trust_remote_code=settings.trust_remote_code,
            attn_implementation=settings.attn_implementation,
            tokenizer=self.student_tokenizer,
        )
        check_causal(name, loaded.kind)
        return loaded

    def _adapted(self, model: Any) -> Any:
        """The student as it is trained, where that is not all of its weights."""
        settings = self._config.student
        if settings.lora.rank:
            quantise(model, settings.quantise, self._device)
            add_adapters(model, settings.lora, self._config.run.seed)
            model.to(self._device)  # where its quantised layers are
        if settings.trained == "embeddings":
            train_embeddings(model)
        return model

    def _open(self, name: str) -> None:
        """Have a teacher made by its source."""
        with prefix_errors(f"teachers.{name}"):
            self.place(self.sources[name].open(self.making(name)))

    def making(self, name: str) -> Making:
        """What the source of a teacher is given."""
        return Making(
            name=name,
            entry=self._config.teachers[name],
            device=self._device,
            make_student=self.student,
            student_tokenizer=self.student_tokenizer,
            student_kind=self.student_kind,
            open_store=partial(
                teacher_of_store,
                self._config,
                name,
                student_tokenizer=self.student_tokenizer,
            ),
            seed=self._config.run.seed,
            distant=self._distant,
        )

    def place(self, teacher: Teacher) -> None:
        """Take a teacher, in place of an earlier one of its name."""
        if isinstance(teacher, LiveTeacher):
            self.live[teacher.name] = teacher
        elif isinstance(teacher, StoredTeacher):
            self.stored[teacher.name] = teacher
        else:
            self.elsewhere[teacher.name] = teacher
