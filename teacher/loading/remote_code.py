"""Python code that comes with a model: whose it is, what of it runs, and its digest.

It is run for a teacher alone whose settings say so. What runs is what lies in the
model's folder, or in the hub's snapshot of one commit; code of a third place, which a
model may name, is refused, for nothing pins that.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.support.digest import sha256_of
from teacher.hub.pinned import pinned_folder
from teacher.names import model_source


def code_folder(name: str) -> Path:
    """The folder in which a model and its code lie, fetched where they are not here.

    Args:
        name: see :func:`teacher.names.model_source`.

    Raises:
        MissingFileError: no such model.
        InputError: it names code of another place.
    """
    source = Path(model_source(name))
    folder = source if source.is_dir() else pinned_folder(name, "main")
    for place in _places(folder):
        if "--" in place:
            other = place.partition("--")[0]
            raise InputError(
                f"model {name!r}: its auto_map names code of {other!r}, another place, "
                "which nobody has pinned; copy that code into the model's folder, name "
                "it there, and give the folder"
            )
    return folder


def code_files(folder: Path) -> list[Path]:
    """The Python files that come with a model."""
    return sorted(file for file in folder.rglob("*.py") if file.is_file())


def code_digest(folder: Path) -> str:
    """One digest of a model's code: of every file's name and content."""
    digest = hashlib.sha256()
    for file in code_files(folder):
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name} {sha256_of(file)}\n".encode(errors="replace"))
    return digest.hexdigest()[:16]


def what_runs(folder: Path) -> str:
    """The code of a model in words, each file with its SHA-256."""
    files = code_files(folder)
    names = [f"{f.relative_to(folder)} (SHA-256 {sha256_of(f)})" for f in files]
    return ", ".join(names) or "none: its config.json names files that are not there"


def _places(folder: Path) -> list[str]:
    """What its auto_map says of where classes are."""
    places: list[str] = []
    for file in ("config.json", "tokenizer_config.json"):
        try:
            settings: Any = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # whoever reads it says so
        named = settings.get("auto_map") if isinstance(settings, dict) else None
        # A list is of a tokenizer alone, as earlier versions of transformers wrote it.
        for value in named.values() if isinstance(named, dict) else (named,):
            every = value if isinstance(value, list) else [value]
            places += [str(each) for each in every if each is not None]
    return places
