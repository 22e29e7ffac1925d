"""What a converted model's folder says of its origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from align.errors import InputError
from align.foreign.inside import file_inside
from align.support.digest import sha256_of

NAME = "mtkd-model.json"
"""Written last; a folder without it is not finished."""
LICENCE = "LICENSE.model"
"""The licence's text and notices, where they came with the model."""
_WHOLE = 32 * 2**20
"""Bytes up to which a file is read again whenever its folder is looked at."""


class FileRecord(BaseModel):
    """One file as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    """Bytes."""
    sha256: str


class Adaptation(BaseModel):
    """How a model was trained in a vocabulary that it was given, and what came of it.

    Bits are those of held-out text, per character, by domain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: str
    """The model whose vocabulary it is."""
    vocabulary_sha256: str
    """Of its tokens and ids."""
    steps: int
    """Optimiser steps."""
    trained: str
    """all, embeddings or lora."""
    texts: dict[str, str]
    """Digests of what was learned from."""
    run: str
    """Folder of the run, whose config.yaml has every setting."""
    bits_origin: dict[str, float]
    """Of the model as it was."""
    bits_given: dict[str, float]
    """With new rows, untrained."""
    bits_adapted: dict[str, float]


class Making(BaseModel):
    """How a student was made of a larger model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: str
    """The maker."""
    options: dict[str, JsonValue]
    """Its options that were given."""
    layers: list[int]
    """For each of the student's layers, the source's that it was, from 0."""
    layers_of_source: int
    parameters: int
    """Weights, tied ones counted once."""
    parameters_of_source: int

    @property
    def kept(self) -> str:
        """How many weights of how many, for people: ``81.4 M of 134.5 M``."""
        return " of ".join(map(_counted, (self.parameters, self.parameters_of_source)))


def _counted(weights: int) -> str:
    return f"{weights / 1e6:.1f} M" if weights >= 1e6 else f"{weights:,}"


class Manifest(BaseModel):
    """Where a model came from, and what lies in its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    title: str
    source: str
    """What was converted: a file, a folder, or the name of a known model."""
    packages: dict[str, str] = {}
    """Distributions it was taken from, with their versions."""
    source_sha256: str = ""
    """Of the weights before they were converted."""
    licence: str = ""
    """Empty where it is not known."""
    redistributable: bool | None = None
    """None where it is not known."""
    conversion: str
    """What was done."""
    adaptation: Adaptation | None = None
    """Of a model that was trained in another vocabulary."""
    making: Making | None = None
    """Of a model that was cut out of another."""
    files: dict[str, FileRecord]


def write_manifest(folder: Path, **fields: object) -> Manifest:
    """Note a finished folder's files and write the manifest beside them.

    Args:
        folder: everything of the model lies in it.
        fields: of :class:`Manifest`, but for its files.
    """
    files = {
        path.relative_to(folder).as_posix(): FileRecord(
            size=path.stat().st_size, sha256=sha256_of(path)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    }
    manifest = Manifest.model_validate({**fields, "files": files})
    text = manifest.model_dump_json(indent=2) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """What a folder's manifest says; None where there is none.

    Raises:
        ValueError: it cannot be read.
    """
    path = folder / NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise InputError(
            f"{path} cannot be used: {place}: {first['msg']}; convert the model again"
        ) from error


def changed_files(
    folder: Path, files: Mapping[str, FileRecord], whole: bool = False
) -> list[str]:
    """Files that are not what they were when the manifest was written.

    Args:
        folder: of the model.
        files: of the manifest.
        whole: read large files again, too, instead of asking for their sizes alone.

    Raises:
        OutsideError: a name leads out of the folder.
    """
    changed = []
    for name, record in files.items():
        path = file_inside(folder, name, folder / NAME)
        same = path.is_file() and path.stat().st_size == record.size
        if same and (whole or record.size <= _WHOLE):
            same = sha256_of(path) == record.sha256
        if not same:
            changed.append(name)
    return changed
