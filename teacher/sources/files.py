"""Teachers from files: folders, the hub, packages, the embedded zoo."""

from __future__ import annotations

from align.views import Teacher
from teacher.names import PACKAGE, ZOO
from teacher.sources.base import Opening, TeacherSource

FILES = "files"
"""The source of a name without a prefix: a folder, or a name on the hub."""


class Files(TeacherSource):
    """A model in a folder, or on the hub."""

    prefix = ""

    @property
    def files(self) -> str:
        """The model, named as everywhere."""
        return f"{self.prefix}{self.rest}"

    def open(self, opening: Opening) -> Teacher:
        """Load it."""
        return opening.load(self.files)


class ZooModel(Files):
    """An embedded model: ``zoo:gpt2-prose``, or ``zoo:tiny/gpt2-prose``."""

    prefix = ZOO


class PackagedModel(Files):
    """A pretrained model from a Python package: ``pkg:smollm2``."""

    prefix = PACKAGE
