"""What a source is given in a run: models from their files, and the student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import torch

from align.errors import InputError
from align.foreign.quote import say
from experiments.sources.compiled import compile_model
from experiments.sources.distant import Distant
from student.loop.launch import launched_rank
from student.unreached import freeze_unreached
from teacher.capture.kv_capture import KVCapture
from teacher.capture.pair_capture import PairCapture, capture_of
from teacher.capture.windows import windows_for
from teacher.live_teacher import LiveTeacher, counted_types
from teacher.loading.models import LoadedModel, load_model
from teacher.loading.quantise import quantise
from teacher.loading.remote_code import code_folder, what_runs
from teacher.loading.shard import shard
from teacher.loading.widen import widen
from teacher.store.facts import StoreFacts
from teacher.stored_teacher import StoredTeacher
from teacher.teacher_config import TeacherConfig
from teacher.trained_teacher import TrainedTeacher


class Trusting(Protocol):
    """Settings of a teacher, or of the student."""

    @property
    def trust_remote_code(self) -> bool:
        """Whether code that comes with the model is run."""


def tell_code(place: str, entry: Trusting, model: str) -> None:
    """Say, before it runs, which code comes with a model that is trusted.

    Args:
        place: of its settings, ``teachers.NAME`` or ``student``.
        entry: these.
        model: whose files are read.
    """
    if entry.trust_remote_code and launched_rank() == 0:
        code = what_runs(code_folder(model))
        say(f"warning: {place}.trust_remote_code: runs code of {model}: {code}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Making:
    """Of one teacher; see :class:`teacher.sources.Opening`."""

    name: str
    """The teacher's."""
    entry: TeacherConfig
    device: torch.device
    make_student: Callable[[Path | None, int | None], Any]
    """The student that training starts from, or one that a phase left; drawn from a
    seed in place of the run's."""
    student_tokenizer: Any
    student_kind: str = "decoder"
    """Or encoder-decoder."""
    seed: int = 0
    """The run's."""
    open_store: Callable[[StoreFacts], StoredTeacher] | None = None
    """A store as a teacher, seen to be of the run; None where none is read."""
    learning: Any = None
    """The student of the phase that begins; None before any does."""
    distant: Distant | None = None
    """The ranks that hold teachers; None where this process loads its own."""

    def load(self, model: str) -> LiveTeacher:
        """A model from its files, loaded as the teacher's settings say."""
        entry = self.entry
        dtype = None if entry.dtype == "auto" else getattr(torch, entry.dtype)
        tell_code(f"teachers.{self.name}", entry, model)
        if self.distant is not None and self.name in self.distant.homes:
            return self.distant.load(
                self.name, entry, model, self.device, student_kind=self.student_kind
            )
        loaded = load_model(
            model,
            role="teacher",
            dtype=dtype,
            trust_remote_code=entry.trust_remote_code,
            attn_implementation=entry.attn_implementation,
        )
        whole: Any = loaded.model  # transformers hides the type of .to
        # What is split leaves the CPU's memory block by block.
        quantise(whole, entry.quantise, None if entry.shard else self.device)
        held = counted_types(whole)
        if narrow := widen(whole, self.device):
            say(
                f"teachers.{self.name}: its weights of {narrow} calculate in float32, "
                f"as this processor would take longer in {narrow}; they take twice "
                "the memory"
            )
        if entry.shard:
            shard(whole, self.device)
        whole.to(self.device)
        windowed = entry.long_texts == "window"
        windows = windows_for(loaded.model) if windowed else None
        if not self._pairs or loaded.kind != "encoder-decoder":
            capture = KVCapture(loaded.model, windows=windows)
        elif windowed:
            raise InputError(
                f"teachers.{self.name}.long_texts=window is of texts of one part, and "
                f"{model!r} reads sources and targets; set long_texts=refuse, and a "
                "data.max_length that it can read"
            )
        else:
            capture = PairCapture(loaded.model)
        if entry.compile:
            compile_model(capture, f"teachers.{self.name}.compile")
        return LiveTeacher(
            self.name, loaded, capture, beside_pairs=self._pairs, held=held
        )

    @property
    def _pairs(self) -> bool:
        """Whether the student reads sources and targets."""
        return self.student_kind == "encoder-decoder"

    def student(
        self, folder: Path | None = None, *, seed: int | None = None
    ) -> LiveTeacher:
        """The student of the run's start, or that of a folder, standing still."""
        model = self.make_student(folder, seed).to(self.device)
        model.eval().requires_grad_(False)
        loaded = LoadedModel(
            model, self.student_tokenizer, self.student_kind, self.name
        )
        return LiveTeacher(
            self.name, loaded, capture_of(model), beside_pairs=self._pairs
        )

    def learner(
        self, model: str, *, fresh: bool = False, seed: int | None = None
    ) -> TrainedTeacher:
        """A student beside the run's.

        Its name has a part in what is drawn, or it would begin as the student does,
        where that is of its make, and neither could teach the other.

        Raises:
            InputError: it is no causal language model.
        """
        drawn = (self.seed if seed is None else seed) + crc32(self.name.encode())
        loaded = load_model(
            model, role="student", init_seed=drawn % 2**32 if fresh else None
        )
        if loaded.kind != "decoder":
            raise InputError(
                f"peer:{model} is an {loaded.kind}; a peer predicts the next token: "
                "give a causal language model"
            )
        whole: Any = loaded.model
        freeze_unreached(whole)
        whole.to(self.device)
        return TrainedTeacher(
            self.name, loaded, KVCapture(whole), beside_pairs=self._pairs
        )

    def stored(self, facts: StoreFacts) -> StoredTeacher:
        """A teacher's own store, seen to be of the run."""
        assert self.open_store is not None
        return self.open_store(facts)

    def itself(self) -> LiveTeacher:
        """The student of the phase that begins, which goes on training."""
        if self.learning is None:
            return self.student()
        loaded = LoadedModel(
            self.learning, self.student_tokenizer, self.student_kind, self.name
        )
        capture = capture_of(self.learning)
        return TrainedTeacher(self.name, loaded, capture, beside_pairs=self._pairs)
