"""``student.make``: the student is made of a model once, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from align.support.cache_folder import make_kept_folder
from experiments.assemble.fingerprint import file_digests
from experiments.config.parsing import ConfigError, plain
from experiments.config.used_plugins import records_of
from experiments.config.zoo_names import build_named
from experiments.making.make import KIND, Recipe, make_student, maker_of
from experiments.making.texts import texts_of
from fuse.config import choice_of
from teacher.names import MADE, made_folder_of
from teacher.packages.manifest import read_manifest

if TYPE_CHECKING:
    from experiments.config.tree import Config
    from plugins.registry import Registry

NONE = "none"
"""Of ``student.make``: the student is the model as it is."""
OF = "of"
"""In ``student.make``: the model of which ``student.model`` was made."""
VERSION = 1
"""Raised where the same recipe makes another student than before."""


def makers_used(config: Config) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Kind and name of the maker that a config calls by name, with its options."""
    use, options = choice_of("student.make", config.student.make)
    options.pop(OF, None)
    return {} if use == NONE else {(KIND, use): [options]}


def with_made_student(config: Config, registry: Registry) -> Config:
    """The config with its student made, if it asks for that and it is not there yet.

    Args:
        config: with ``student.make``; returned as it is without.
        registry: knows the makers.

    Returns:
        ``student.model`` is ``made:`` and a digest of the recipe: the source's files,
        maker, options, a stranger's code and the text it judges by. ``student.make``
        says under ``of`` what it was made of, so that the result can be read again.

    Raises:
        ConfigError: an option that the maker does not take, or ``student.model`` is not
            what the recipe makes.
        InputError: nothing of the kind can be made of the model.
        PluginError: nobody offers such a maker.
    """
    use, options = choice_of("student.make", config.student.make)
    if use == NONE:
        return config
    given = config.student.model
    source = str(options.pop(OF, given))
    recipe = Recipe(source=source, use=use, options=options, data=config.data)
    key = f"{MADE}{_digest(recipe, registry)}"
    if given not in (source, key):
        raise ConfigError(
            f"student.model is {given}, but student.make makes {key} of {source} now: "
            "its files, the maker or the text it judges by changed. Choose another "
            f"run.name with student.model={source}, or put back what it was made of"
        )
    _make_once(recipe, registry, key)
    settings = {"use": use, **options, OF: source}
    return replace(config, student=replace(config.student, model=key, make=settings))


def _make_once(recipe: Recipe, registry: Registry, key: str) -> None:
    """Make a student where it is missing; of several processes one does."""
    from filelock import FileLock

    from experiments.record.progress import waiting
    from student.loop.launch import launched_rank

    folder = made_folder_of(key)
    if folder.is_dir() and read_manifest(folder) is not None:
        return
    make_kept_folder(folder.parent, "made students")
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not folder.is_dir():  # another process's by now
            what = f"making the student of {recipe.source}"
            with waiting(what, launched_rank() == 0):
                make_student(recipe, registry, folder, place="student.make")


def _digest(recipe: Recipe, registry: Registry) -> str:
    maker = maker_of(recipe, registry, "student.make")
    build_named([recipe.source])
    parts = {
        "version": VERSION,
        "source": file_digests(recipe.source) or recipe.source,
        "use": recipe.use,
        "options": plain(recipe.options),
        "texts": texts_of(recipe.data) if maker.needs_sample else [],
        "code": {
            name: record["digest"]
            for name, record in records_of(registry, [(KIND, recipe.use)]).items()
        },
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
