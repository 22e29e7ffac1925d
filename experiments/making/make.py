"""Make a student of a model and keep it as a folder that transformers loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import InputError, MissingFileError, prefix_errors
from align.support.cache_folder import made_folder
from align.support.quiet import quiet_libraries
from experiments.config.parsing import check
from experiments.config.zoo_names import build_named
from experiments.making.origin import origin_of
from experiments.making.texts import LENGTH, texts_of
from experiments.texts.config import DataConfig
from plugins.options import options_of
from teacher.making.base import Made, Sample, StudentMaker
from teacher.packages.manifest import Making, Manifest, write_manifest

if TYPE_CHECKING:
    from plugins.registry import Registry

KIND = "student_maker"
"""The kind of plugin that makes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is made of what."""

    source: str
    """Hub name, folder, ``zoo:NAME`` or ``pkg:NAME``."""
    use: str = "layers"
    """A registered maker."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the maker, by name."""
    data: DataConfig = field(default_factory=DataConfig)
    """Text that makers judge by: what it trains on."""


def maker_of(recipe: Recipe, registry: Registry, place: str = "make") -> StudentMaker:
    """The maker that a recipe names, with its options.

    Raises:
        ConfigError: an option that it does not take.
        InputError: a value that cannot be meant.
        PluginError: nobody offers such a maker.
    """
    options = check(options_of(registry.get(KIND, recipe.use)), recipe.options, place)
    with prefix_errors(place):
        maker: StudentMaker = registry.guarded(KIND, recipe.use)(**options)
    return maker


def check_new(out: Path) -> None:
    """See that a model can be written to a folder.

    Raises:
        InputError: something is there already.
        MissingFileError: the folder that it would lie in is not there.
    """
    if out.exists():
        raise InputError(f"{out} is there already; give another folder with --out")
    if not out.absolute().parent.is_dir():
        raise MissingFileError(f"the folder {out.absolute().parent} is not there")


def make_student(
    recipe: Recipe, registry: Registry, out: Path, place: str = "make"
) -> Manifest:
    """Make a student and write it with its tokenizer and a manifest.

    Args:
        recipe: what is made of what.
        registry: everything that a name can stand for.
        out: the new folder; replaced as a whole.
        place: of the recipe, for errors.

    Returns:
        The manifest: where the student came from, the digest of the source's weights,
        its licence, and the layers that were kept.

    Raises:
        InputError: a model that it cannot be made of, or options that cannot be meant.
    """
    from teacher.loading.models import load_model

    quiet_libraries()
    maker = maker_of(recipe, registry, place)
    build_named([recipe.source])
    origin = dict(origin_of(recipe.source))
    notices: Mapping[str, str] = origin.pop("notices")
    loaded = load_model(recipe.source)
    if loaded.kind != "decoder":
        raise InputError(
            f"model {recipe.source!r} is an {loaded.kind}; students are made of causal "
            "language models alone"
        )
    sample = None
    if maker.needs_sample:
        sample = Sample.of(loaded.tokenizer, texts_of(recipe.data), LENGTH)
    with prefix_errors(f"model {recipe.source!r}"):
        made = maker(loaded.model, sample)
    with made_folder(out) as folder:
        made.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        for file, text in notices.items():
            (folder / file).write_text(text, encoding="utf-8")
        return write_manifest(
            folder, **origin, conversion=made.done, making=_making(recipe, made, loaded)
        )


def _making(recipe: Recipe, made: Made, loaded: Any) -> Making:
    return Making(
        use=recipe.use,
        options=dict(recipe.options),
        layers=list(made.layers),
        layers_of_source=loaded.model.config.num_hidden_layers,
        parameters=sum(p.numel() for p in made.model.parameters()),
        parameters_of_source=sum(p.numel() for p in loaded.model.parameters()),
    )
