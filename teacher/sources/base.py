"""What a source of teachers promises, and what it is given.

``teachers.NAME.model`` names a source by its prefix (``zoo:gpt2-prose``) and what is
wanted of it by the rest. A source of files loads once, before any work, and stands
still; one that is made from the student may be another teacher in every phase, or after
every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from torch import nn

from align.views import (
    ATTENTION,
    FORETOLD,
    HEADS,
    HIDDEN,
    KEYS_VALUES,
    OUTPUTS,
    OWN_LOSS,
    Teacher,
)
from teacher.store.facts import StoreFacts

EVERYTHING = frozenset(
    {KEYS_VALUES, ATTENTION, HEADS, HIDDEN, OUTPUTS, OWN_LOSS, FORETOLD}
)
"""All that a teacher can give."""

Cost = Literal["forward", "read", "request"]
"""What asking about a batch takes: a model's forward pass on this machine, a read from
disk, or a request to another machine."""
COSTS = get_args(Cost)


class Opening(Protocol):
    """What a source is given to make a teacher of."""

    @property
    def name(self) -> str:
        """The teacher's name in the config."""

    def load(self, model: str) -> Teacher:
        """A model from its files, as the teacher's ``dtype``, ``quantise``, ``shard``
        and ``long_texts`` say.

        Args:
            model: a folder or hub name, ``pkg:NAME`` or ``zoo:NAME``.
        """

    def student(
        self, folder: Path | None = None, *, seed: int | None = None
    ) -> Teacher:
        """The run's student, as a teacher of its own that stands still.

        Args:
            folder: of a student that a phase left; None: as the run begins.
            seed: from which its weights are drawn, where they are; None: the run's.
        """

    def learner(
        self, model: str, *, fresh: bool = False, seed: int | None = None
    ) -> Teacher:
        """A student of its own, in float32, that the loop is to train.

        Args:
            model: as for :meth:`load`; a causal one.
            fresh: draw its weights anew.
            seed: from which, together with the teacher's name; None: the run's.
        """

    def stored(self, facts: StoreFacts) -> Teacher:
        """A teacher's own store in its place, seen to be of this run.

        Args:
            facts: what the store says of it.
        """

    def itself(self) -> Teacher:
        """The student of the phase that begins, without a copy: what it says changes as
        it trains. Before any phase, the student as the run begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseStart:
    """Where an arm stands as a phase of it begins."""

    earlier: Mapping[str, Path]
    """Folders of the students that this arm's earlier phases left, by the phases' names
    in running order."""
    kept: Sequence[str]
    """Those of the phases that were not rolled back."""
    begins: Path | None
    """Folder of the student that the phase starts from; None: as the run begins."""
    drawn: int | None = None
    """Seed from which that student is drawn anew; None where it is not."""
    texts_per_step: int
    """Of one optimiser step over all processes."""
    texts: int
    """That are learned from."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """Mean bits per character of these students, by phase: on the gate's text where
    there is one, else on held-out text."""


class TeacherSource:
    """One teacher's source; subclass it, and override what is otherwise.

    A factory takes what stands behind the prefix, and options by keyword.
    """

    example = "folder"
    """Of the class: what its contract puts behind the prefix."""
    opens_example = True
    """Of the class: whether that can be opened where every name stands for one small
    model; False where it takes more than models and the student."""
    bare = False
    """Of the class: whether the prefix alone, without a colon, names it, too."""
    gives = EVERYTHING
    """What its teachers can give at most, of :data:`EVERYTHING`."""
    moves = False
    """Whether the teacher changes while the student trains. It is asked then in the
    step that learns from the answer, before that step's update, and never ahead."""
    of_student = False
    """Whether the teacher is of the student's make, its tokenizer included: then what
    it is depends on the arm and on the phase that it teaches."""
    cost: Cost = "forward"
    """What asking it takes."""

    def __init__(self, rest: str) -> None:
        """Take what the model's name says behind the prefix.

        Raises:
            InputError: it cannot be meant.
        """
        self.rest = rest

    @property
    def like(self) -> str | None:
        """The model whose ``config.json`` and tokenizer tell what the teacher is: a
        folder or hub name, ``pkg:NAME`` or ``zoo:NAME``. None where nothing is known
        before it is opened, or where ``of_student`` says it."""
        return self.files

    @property
    def files(self) -> str | None:
        """The model whose files it reads, named likewise; None where it reads none."""
        return None

    @property
    def says(self) -> str:
        """What the teacher is and when it is asked, for the log; "" needs no words."""
        return ""

    def fingerprint(self) -> Mapping[str, str]:
        """What tells it from another under its name, beside model and options; field by
        field. A run that goes on refuses what differs. Of files their digests are taken
        anyhow."""
        return {}

    def open(self, opening: Opening) -> Teacher:
        """Make the teacher, before any work."""
        raise NotImplementedError

    def absent(self, earlier: Sequence[str]) -> str:
        """Why there is no such teacher in a phase, known before any work; "" where
        there is.

        Args:
            earlier: the phases that run before it, in order.
        """
        return ""

    def reads(self, start: PhaseStart) -> Sequence[Path]:
        """Folders of the students whose files make the teacher of a phase: their
        digests are noted with the phase."""
        return ()

    def begin(self, opening: Opening, start: PhaseStart) -> Teacher | None:
        """Make the teacher of a phase as it begins; None keeps the one there is."""
        return None

    def after_step(self, teacher: Teacher, student: nn.Module, step: int) -> None:
        """Move a teacher that moves, after an optimiser step that was taken.

        Args:
            teacher: from :meth:`open` or :meth:`begin`.
            student: the model that was trained, whole.
            step: optimiser steps of the phase, this one included.
        """
