"""What a model is called, and where its files are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from align.bounds.regular_file import refuse_special_files
from align.errors import InputError, MissingFileError
from align.support.cache_folder import cache_folder
from align.support.field_types import shown

PrototypeMethod = Literal["mean", "cls", "kmeans"]
Similarity = Literal["cosine", "dot", "l2"]
"""How prototypes are made, and what is near one, see :mod:`teacher.router_proto`."""

ZOO = "zoo:"
"""Prefix of embedded models: ``zoo:gpt2-prose``, or ``zoo:tiny/gpt2-prose``."""

PACKAGE = "pkg:"
"""Prefix of pretrained models from Python packages: ``pkg:smollm2``."""

PEER = "peer:"
"""Prefix of teachers that are students of their own."""

STORE = "store:"
"""Prefix of teachers that are read from a store of their own."""

MADE = "made:"
"""Prefix of students that a config's ``student.make`` made: ``made:`` and a digest."""


_PINNED = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)@([\w.-][\w./-]*)")
"""A name on the hub with a revision."""

LONGEST = 255
"""Bytes of a file's name, in a model's."""


def check_length(name: str, setting: str) -> None:
    """Refuse what no path and no hub can be called.

    Args:
        name: of a model.
        setting: that names it.

    Raises:
        InputError: a part of it is longer than a file's name may be.
    """
    if max(map(len, name.encode(errors="replace").split(b"/"))) > LONGEST:
        raise InputError(
            f"{setting} is {shown(name)}, which is longer than any file's name; give a "
            "folder, a hub name, zoo:NAME or pkg:NAME"
        )


def pinned(name: str) -> tuple[str, str] | None:
    """A hub name with a revision in its two parts; None of any other name.

    Args:
        name: of a model, such as ``org/name@main``; a folder of this name is none.
    """
    match = _PINNED.fullmatch(name)
    return None if match is None or Path(name).exists() else (match[1], match[2])


def at_revision(model: str, revision: str | None, setting: str) -> str:
    """A model's name with what ``setting.revision`` says, ``org/name@revision``.

    Args:
        model: as ``setting.model`` says it.
        revision: a branch, a tag or a commit; None leaves the name as it is.
        setting: that has both.

    Raises:
        InputError: the model is none of the hub, or names another revision itself.
    """
    if revision is None or model.endswith(f"@{revision}"):
        return model
    if pinned(f"{model}@{revision}") is None or Path(model).is_dir():
        raise InputError(
            f"{setting}.revision is {shown(revision)}, but {setting}.model is "
            f"{shown(model)}; a branch, tag or commit is given with a hub name such as "
            "'openai-community/gpt2', which does not name another"
        )
    return f"{model}@{revision}"


def made_folder_of(name: str) -> Path:
    """Where a made student lies, or will lie, in the cache."""
    return cache_folder() / "made" / name.removeprefix(MADE)


def model_source(name: str, resolve: Callable[[str], Path] | None = None) -> str:
    """Where to load a model from: its folder, or its name on the hub.

    Args:
        name: a folder, a hub name, one with a branch, tag or commit
            (``org/name@revision``), ``pkg:NAME``, ``zoo:NAME``, ``zoo:SCALE/NAME`` or
            ``made:DIGEST``.
        resolve: gives the folder of what stands behind ``zoo:``; None means the built
            zoo.

    Raises:
        FileNotFoundError: no such folder, or the zoo's model is not built, or the
            package's not fetched.
        ValueError: neither the zoo nor a known package has such a model, or among its
            files is what is none, such as a pipe.
    """
    if name.startswith(ZOO):
        if resolve is not None:
            return str(resolve(name.removeprefix(ZOO)))
        from teacher.zoo import zoo_path

        scale, model = zoo_parts(name)
        return str(zoo_path(model, scale=scale))
    if name.startswith(PACKAGE):
        from teacher.packages.cached import package_path

        return str(package_path(name.removeprefix(PACKAGE)))
    if name.startswith(MADE):
        if not (folder := made_folder_of(name)).is_dir():
            raise MissingFileError(
                f"model {name!r}: {folder} is not there; run the config whose "
                "student.make made it, or copy the folder from where it was made"
            )
        return str(folder)
    path = Path(name).expanduser()
    if path.is_dir():
        refuse_special_files(path)
        return str(path)
    if (parts := pinned(name)) is not None:
        from teacher.hub.pinned import pinned_folder

        return str(pinned_folder(*parts))
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local or path.exists():
        raise MissingFileError(
            f"model {name!r}: no such folder ({path.absolute()}); give the folder "
            "that holds config.json, or a hub name such as 'openai-community/gpt2'"
        )
    return name


def at_commit(name: str) -> str:
    """A model's name by which any process reads the files that this one would.

    Args:
        name: see :func:`model_source`.

    Returns:
        ``org/name@commit`` of what is at a branch or a tag of the hub; else the name.

    Raises:
        MissingFileError: no such model or revision.
    """
    if (parts := pinned(name)) is None:
        return name
    return f"{parts[0]}@{Path(model_source(name)).name}"


def zoo_parts(name: str) -> tuple[str, str]:
    """Scale and model of a ``zoo:`` name."""
    scale, _, model = name.removeprefix(ZOO).rpartition("/")
    return scale or "default", model
