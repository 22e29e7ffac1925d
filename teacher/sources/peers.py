"""Students that learn beside the run's own, and from it, and teach it meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from align.errors import InputError
from align.support.field_types import Positive
from align.views import Teacher
from teacher.loading.vouched import PEERS
from teacher.names import PACKAGE, ZOO
from teacher.sources.base import Opening, PhaseStart, TeacherSource
from teacher.sources.of_student import WHEN


class Peer(TeacherSource):
    """``peer:MODEL``: a student of its own, of any size, family and tokenizer, that
    trains beside the run's and teaches it, as it stands.

    Source:
        Zhang et al. 2018, "Deep mutual learning" (arXiv 1706.00384), algorithm 1: one
        network steps, then the other on the same texts, from what the first now says.
    """

    example = "zoo:student"
    opens_example = False  # it moves in the loop alone, which trains it
    moves = True

    def __init__(
        self,
        rest: str,
        *,
        init: Literal["checkpoint", "fresh"] = "checkpoint",
        learning_rate: Positive | None = None,
    ) -> None:
        """Take a model and how it begins.

        Args:
            rest: a folder or hub name, ``pkg:NAME`` or ``zoo:NAME``.
            init: ``checkpoint`` begins with the model's weights, ``fresh`` draws them
                anew, from ``run.seed`` and the peer's name.
            learning_rate: its peak; None: as the student's.

        Raises:
            InputError: no model, or one that has no files.
        """
        super().__init__(rest)
        prefix, colon, _ = rest.partition(":")
        files = not colon or f"{prefix}:" in (ZOO, PACKAGE) or "/" in prefix
        if not rest or not files:
            raise InputError(
                f"'peer:{rest}' names no model to train; give peer: with a folder, a "
                f"hub name, {ZOO}NAME or {PACKAGE}NAME"
            )
        self.init, self.learning_rate = init, learning_rate

    @property
    def files(self) -> str:
        """The model that it begins as."""
        return self.rest

    @property
    def says(self) -> str:
        """What it is and when it is asked."""
        return f"a student of its own, made of {self.rest}, that learns beside, {WHEN}"

    def open(self, opening: Opening) -> Teacher:
        """As it begins, until a phase does."""
        return opening.learner(self.rest, fresh=self.init == "fresh")

    def begin(self, opening: Opening, start: PhaseStart) -> Teacher:
        """As the phase that the student goes on from left it, or as it begins."""
        left = left_by(opening.name, start)
        if left is not None:
            return opening.learner(str(left))
        fresh = self.init == "fresh"
        return opening.learner(self.rest, fresh=fresh, seed=start.drawn)


def left_by(name: str, start: PhaseStart) -> Path | None:
    """The folder of a peer that a phase goes on from; None where it begins anew.

    Args:
        name: the peer's.
        start: of the phase.
    """
    if start.begins is None:
        return None
    for phase in reversed(start.kept):
        folder = start.earlier[phase].parent / PEERS / name
        if folder.is_dir():
            return folder
    return None
