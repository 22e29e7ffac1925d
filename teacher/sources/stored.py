"""Teachers from one store of their own: ``store:kv/their-run/llama``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from align.errors import InputError
from align.views import FORETOLD, KEYS_VALUES, OUTPUTS, OWN_LOSS, Teacher
from teacher.sources.base import Cost, Opening, TeacherSource
from teacher.store.facts import StoreFacts, read_facts


class Stored(TeacherSource):
    """What ``mtkd extract`` once made of a teacher, read in its place."""

    example = "kv/run/llama"
    opens_example = False
    gives = frozenset({KEYS_VALUES, OUTPUTS, OWN_LOSS, FORETOLD})
    cost: Cost = "read"

    def __init__(self, rest: str) -> None:
        """Take the store's folder.

        Raises:
            InputError: none is named.
        """
        super().__init__(rest)
        if not rest.strip():
            raise InputError(
                "'store:' names no folder; give that of one teacher which `mtkd "
                "extract` wrote, such as store:kv/RUN/NAME"
            )
        self.folder = Path(rest).expanduser()

    @cached_property
    def facts(self) -> StoreFacts:
        """What the store says of its teacher; see :func:`read_facts`."""
        return read_facts(self.folder)

    @property
    def like(self) -> str | None:
        """Nothing: the store says by itself what its teacher is."""
        return None

    @property
    def says(self) -> str:
        """What is read, and whose it is; nothing where it is not there."""
        return self.facts.says if self.folder.is_dir() else ""

    def fingerprint(self) -> Mapping[str, str]:
        """The digest of all that the store holds, wherever it lies; none where it is
        not there."""
        there = self.folder.is_dir()
        return {"store": self.facts.digest} if there else {}

    def open(self, opening: Opening) -> Teacher:
        """Open the store, and see that it is of this run."""
        return opening.stored(self.facts)
