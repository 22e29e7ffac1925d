"""Which files of a folder are the text that is asked for."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from align.bounds.regular_file import reason, refuse_special, shown
from align.errors import InputError, MissingFileError
from align.text.files import READ, is_named_text, kind_of, stem_of

Split = Literal["train", "eval"]
"""What a folder's text is for: to learn from, or to be measured on."""

_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Words in names of files and folders, as data-set hubs read them."""

_PARTS = {"data", "dataset", "default", "part", "shard", "of", "all", ""}
"""Words that tell nothing of what a file is about."""

_PART = re.compile(r"[-_.]\d+$|[-_.]?\d{4,}-of-\d{4,}.*$|^(part|shard)[-_.]\d.*$")
"""What tells a part of a data set from the others, the digest of its rows included."""

_PAPERS = re.compile(
    r"(licen[cs]e|copying|readme)([-_].*)?"
    r"|copyright|notice|changelog|changes|authors|contributing|citation|requirements"
)
"""Names of files about the text."""
_PAPER = ("", ".txt", ".md", ".rst")

_NOTES = {"dataset_info", "dataset_infos", "dataset_dict", "state", "croissant"}
_NOTES |= {"config", "metadata", "index"}
"""Names of ``.json`` files about the text."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file of a source."""

    path: Path
    name: str
    """Its path within the source, or the file's name; begins its samples' ids."""
    origin: Path
    """What it is about: a path whose last part is the domain, unless one is given."""


@dataclass(frozen=True, slots=True)
class TextFiles:
    """The files of one path, and what else lies there."""

    files: tuple[TextFile, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of files that are not read, by why."""

    def __str__(self) -> str:
        """What was left out, as one sentence's end; empty if nothing."""
        return "; ".join(
            f"{_count(names)} {why}: {_some(names)}"
            for why, names in self.left_out.items()
        )


def text_files(path: str | Path, split: Split | None = None) -> TextFiles:
    """The files that a path stands for.

    A file is itself. Of a folder, these are left out, and named: hidden files, papers
    such as LICENSE and README, what ``datasets`` keeps beside its data
    (``cache-*.arrow``, ``dataset_info.json``), files in formats that are not read, and,
    where names tell splits apart, those of other splits. ``train`` leaves out what is
    named validation or test; ``eval`` takes what is named validation, else test, else
    what is not named train. Where that would leave nothing, all are taken. A folder of
    ``datasets.save_to_disk`` gives the files that it lists.

    Args:
        path: a file or folder.
        split: what the text is for; None takes every split.

    Raises:
        MissingFileError: no such path, or no text in the folder.
        InputError: the name of a file tells a format that is not read.
    """
    path = Path(path)
    if not _exists(path):
        raise MissingFileError(_missing(path))
    refuse_special(path)
    if not path.is_dir():
        kind_of(path)
        return TextFiles((TextFile(path, path.name, absolute(path, stem_of(path))),))
    left_out: dict[str, list[str]] = {}
    data_files = []
    for file, listed in _files_below(path):
        reason = _no_data(file, path, listed)
        if reason:
            left_out.setdefault(reason, []).append(file.relative_to(path).as_posix())
        else:
            data_files.append(file)
    if not data_files:
        raise MissingFileError(
            f"no text in the folder {absolute(path)}; give one that holds files "
            f"ending in {READ}"
            + (f" (it has {_list_of(left_out)})" if left_out else "")
        )
    selection = _of_split(data_files, path, split)
    for file in sorted(set(data_files) - set(selection)):
        reason = f"of the split {_split_of(file, path) or 'without a name'}"
        left_out.setdefault(reason, []).append(file.relative_to(path).as_posix())
    return TextFiles(
        tuple(
            TextFile(file, file.relative_to(path).as_posix(), _origin(file, path))
            for file in selection
        ),
        {reason: tuple(names) for reason, names in left_out.items()},
    )


def shortest_names(paths: Iterable[Path], taken: Iterable[str] = ()) -> dict[Path, str]:
    """The last parts of each path, as many as tell it from the others.

    Args:
        paths: absolute ones.
        taken: names that none may get.

    Returns:
        ``code/train`` and ``news/train``, or ``train`` where there is one alone.
    """
    distinct = list(dict.fromkeys(paths))
    names = {path: path.name or "text" for path in distinct}
    parts, taken = 1, set(taken)
    while parts < max((len(path.parts) for path in distinct), default=0):
        name_counts = Counter(names.values())
        parts += 1
        for path, name in list(names.items()):
            if name in taken or name_counts[name] > 1:
                names[path] = "/".join(path.parts[-parts:]).lstrip("/")
    return names


def absolute(path: Path, name: str | None = None) -> Path:
    """Where a path leads, links kept: their targets are often named by digests."""
    absolute_path = Path(os.path.abspath(path))
    return absolute_path.with_name(name) if name else absolute_path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # longer than names may be, or a zero byte
        raise InputError(
            f"text {shown(path)} cannot be read ({reason(error)})"
        ) from None


def _files_below(folder: Path) -> list[tuple[Path, bool]]:
    """All files in order, and whether a saved data set there says they are its."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} may not be read ({error.strerror})")

    files = []
    for directory_name, _, names in os.walk(folder, onerror=refuse):
        directory = Path(directory_name)
        listed = _listed(directory / "state.json")
        files += [(directory / n, listed is None or n in listed) for n in names]
    return sorted(files)


def _listed(state: Path) -> set[str] | None:
    """The data files of a folder of ``datasets.save_to_disk``; None of any other.

    Raises:
        InputError: the data set is a selection of rows that the files do not show.
    """
    try:
        refuse_special(state)
        saved = json.loads(state.read_text(encoding="utf-8"))
        listed = {entry["filename"] for entry in saved["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if saved.get("_indices_data_files") or saved.get("_indices_files"):
        raise InputError(
            f"{state.parent} is a data set saved with a selection of its rows beside "
            "them; save it again with flatten_indices().save_to_disk(…)"
        )
    return listed


def _no_data(file: Path, folder: Path, listed: bool) -> str:
    """Why a file in a folder is not read; empty if it is."""
    within = file.relative_to(folder)
    stem = stem_of(file).lower()
    if any(part.startswith((".", "__")) for part in within.parts):
        return "hidden"
    if file.suffix == ".json" and stem in _NOTES:
        return "about the text"
    if file.suffix in _PAPER and _PAPERS.fullmatch(stem):
        return "about the text"
    if file.suffix == ".arrow" and (not listed or re.match("cache-|tmp", file.name)):
        return "left by computations on the data set"
    if not is_named_text(file):
        return "in formats that are not read in folders"
    return ""


def _of_split(files: list[Path], folder: Path, split: Split | None) -> list[Path]:
    if split is None:
        return files
    orders: list[tuple[str, ...]] = [("validation",), ("test",), ("",)]
    for order in [("train", "")] if split == "train" else orders:
        split_files = [file for file in files if _split_of(file, folder) in order]
        if split_files:
            return split_files
    return files


def _split_of(file: Path, folder: Path) -> str:
    """``train``, ``validation`` or ``test`` by the name, else by the nearest folder;
    empty where no name tells."""
    within = file.relative_to(folder)
    for part in (stem_of(file), *reversed(within.parts[:-1])):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _origin(file: Path, folder: Path) -> Path:
    """The file, or the folder that names what is in it.

    ``train-00000-of-00002`` tells a split and a part, and nothing of the text.
    """
    stem = _PART.sub("", stem_of(file))
    if _tells(stem):
        return absolute(file, stem)
    at = absolute(file).parent
    top = absolute(folder)
    while at != top and not _tells(at.name):
        at = at.parent
    return at


def _tells(name: str) -> bool:
    words = re.split(r"[^a-z]+", name.lower()) if name.isascii() else [name]
    return any(word not in _SPLITS and word not in _PARTS for word in words)


def _missing(path: Path) -> str:
    advice = "give a file or folder of text, or domain=path"
    if re.fullmatch(r"[\w.-]+/[\w-]+", str(path)):
        advice += (
            f"; a data set of the hub is downloaded first: hf download {path} "
            f"--repo-type dataset --local-dir {path}"
        )
    if path.is_absolute():
        parent = next((p for p in path.parents if p.exists()), None)
        return f"no text at {path} (there is {parent}); {advice}"
    return (
        f"no text at {path}: there is no {absolute(path)}, and paths are relative to "
        f"the folder the command runs in; {advice}"
    )


def _list_of(left_out: Mapping[str, Iterable[str]]) -> str:
    return str(
        TextFiles((), {reason: tuple(names) for reason, names in left_out.items()})
    )


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names)} file{'s' if len(names) > 1 else ''}"


def _some(names: tuple[str, ...]) -> str:
    few = ", ".join(names[:3])
    return few if len(names) <= 3 else f"{few}, …"
