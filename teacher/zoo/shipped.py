"""Trained teachers that lie beside the code, so that nobody need train them first.

:mod:`teacher.zoo.ship` makes them: an archive each (:mod:`teacher.zoo.packed`) and a
manifest with its digest, its recipe and how it reads before and after packing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from align.errors import MachineError
from align.support.digest import sha256_of
from teacher.zoo.recipes import ZooModel

FOLDER = Path(__file__).with_name("weights")
"""Where they lie."""
MANIFEST = "shipped.json"
"""Says of each what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipped:
    """A teacher beside the code."""

    archive: Path
    facts: dict[str, Any]
    """Its entry of the manifest."""

    @property
    def fingerprint(self) -> str:
        """Names these very weights."""
        return str(self.facts["sha256"])[:16]

    def unpack(self, folder: Path) -> None:
        """Write it as ``from_pretrained`` reads it.

        Raises:
            MachineError: the archive is not what was shipped.
        """
        from teacher.zoo.packed import unpack

        digest = sha256_of(self.archive)
        if digest != self.facts["sha256"]:
            raise MachineError(
                f"{self.archive} is damaged: its SHA-256 is {digest[:16]}… and the "
                f"manifest beside it says {self.facts['sha256'][:16]}…; install mtkd "
                "again, or train the teacher with `mtkd zoo build --fresh "
                f"{self.archive.stem}`"
            )
        unpack(self.archive, folder)


def shipped(recipe: ZooModel) -> Shipped | None:
    """Find what was trained by this very recipe; None where there is nothing."""
    facts = _manifest().get(recipe.name)
    archive = FOLDER / f"{recipe.name}.zip"
    if facts is None or facts["recipe"] != as_json(recipe) or not archive.is_file():
        return None
    return Shipped(archive=archive, facts=facts)


@lru_cache(maxsize=1)
def _manifest() -> dict[str, Any]:
    """What lies beside the code: a constant of this installation."""
    file = FOLDER / MANIFEST
    if not file.is_file():
        return {}
    entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return entries


def as_json(recipe: ZooModel) -> Any:
    """Everything that decides a model, as a manifest holds it."""
    return json.loads(json.dumps(recipe.plain()))
