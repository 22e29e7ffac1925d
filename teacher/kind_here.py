"""The kind of a model, where this machine knows it before anything is loaded."""

from __future__ import annotations

from align.errors import InputError, MissingFileError
from teacher.loading.model_config import read_config
from teacher.loading.model_files import weights_folder
from teacher.names import PACKAGE, ZOO, check_length, model_source, zoo_parts
from teacher.packages.cached import known_model


def kind_here(name: str) -> str | None:
    """The kind of a model as far as this machine knows it; nothing is fetched.

    Args:
        name: a folder or hub name, and ``pkg:NAME`` or ``zoo:NAME``, made or
            not.

    Returns:
        None where its files are elsewhere, or are no such model's: loading it says why.
    """
    try:
        if name.startswith(ZOO):
            from teacher.zoo.recipes import recipes

            scale, model = zoo_parts(name)
            known = recipes(scale)
            return known[model].kind if model in known else None
        if name.startswith(PACKAGE):
            return known_model(name.removeprefix(PACKAGE)).kind
        check_length(name, "model")  # whoever builds its settings says so
        folder = weights_folder(model_source(name))
        return None if folder is None else read_config(str(folder))[1]
    except (InputError, MissingFileError):
        return None
