"""``mtkd make``: a student out of a larger model."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.foreign.quote import put
from experiments.commands.output import lasting_output
from experiments.commands.parser import (
    PLUGIN_OPTIONS,
    Command,
    option,
    refuse_given,
    registry_of,
)

if TYPE_CHECKING:
    from experiments.making.make import Recipe
    from teacher.packages.manifest import Manifest

RULES = ("uniform", "first", "floor", "importance", "density", "search")


@lasting_output("the making")
def make(options: Namespace) -> int:
    """Make a student and say what it is."""
    from experiments.making.make import check_new, make_student, maker_of
    from experiments.record.progress import waiting

    out = Path(options.out).expanduser()
    check_new(out)
    recipe = _recipe(options)
    registry = registry_of(options, strict=True)
    if not maker_of(recipe, registry).needs_sample:
        why = "what --layers, --rule or --use asks for judges by no text"
        refuse_given(options, why, data=[])
    with waiting(f"making a student of {options.source}"):
        manifest = make_student(recipe, registry, out)
    _report(out, manifest)
    return 0


def _recipe(options: Namespace) -> Recipe:
    """What the command line asks for.

    Raises:
        InputError: options that contradict.
    """
    from align.bounds.yaml_document import read_yaml
    from align.errors import InputError
    from experiments.making.make import Recipe
    from experiments.texts.config import DataConfig

    typed: Any = options.use
    if typed.lstrip().startswith("{"):
        typed = read_yaml(typed, "--use")
    settings = {"use": typed} if isinstance(typed, str) else dict(typed)
    use = str(settings.pop("use", "layers"))
    short = {"keep": _layers(options.layers), "rule": options.rule}
    given = {name: value for name, value in short.items() if value is not None}
    if given and use != "layers":
        raise InputError(
            f"--layers and --rule are of the maker layers, and --use names {use!r}; "
            "leave them out, or give that maker's options as --use "
            f"'{{use: {use}, OPTION: VALUE}}'"
        )
    twice = sorted(settings.keys() & given.keys())
    if twice:
        option_of = {"keep": "--layers", "rule": "--rule"}
        raise InputError(
            f"{option_of[twice[0]]} and the {twice[0]} of --use say the same thing; "
            "give one of them"
        )
    data = DataConfig(train=options.data or ["zoo"])
    return Recipe(source=options.source, use=use, options=settings | given, data=data)


def _layers(text: str | None) -> int | list[int] | None:
    """How many layers, or their numbers.

    Raises:
        InputError: it is neither.
    """
    from align.errors import InputError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or parts == ["0"]:
        raise InputError(
            f"--layers is {text!r}; give how many layers are kept, such as 15, or "
            "their numbers from 0, such as 0,2,4"
        )
    return [int(part) for part in parts] if len(parts) > 1 else int(parts[0])


def _report(out: Path, manifest: Manifest) -> None:
    from teacher.packages.cached import size_in_words

    assert manifest.making is not None
    making = manifest.making
    size = sum(record.size for record in manifest.files.values())
    put(f"{out}: {manifest.conversion}")
    put(f"weights: {making.kept}, {size_in_words(size)}")
    if manifest.redistributable is False:
        put(
            f"licence: {manifest.licence} forbids handing it on without its terms; "
            "NOTICE says what it asks of you"
        )
    put(
        f"use it as student.model: {out}, with {manifest.source} as a teacher that "
        "heals it"
    )


MAKE = Command(
    name="make",
    action=make,
    what="make a student of a larger model by leaving parts of it out; its source then "
    "heals it as a teacher",
    examples=(
        (
            "mtkd make pkg:smollm2 --layers 15 --out half",
            "half of the layers, evenly spaced; loads in plain transformers",
        ),
        (
            "mtkd make ./llama --layers 0,1,2,29,30,31 --out small",
            "these layers",
        ),
        (
            "mtkd make ./llama --layers 16 --rule importance --data my.txt --out small",
            "those that matter most to the loss on a text of yours",
        ),
        (
            "mtkd train student.model=half teachers='[pkg:smollm2]' output.kd=1",
            "heal it: keys and values beside outputs, token by token",
        ),
    ),
    options=(
        option(
            "source",
            metavar="SOURCE",
            help="a causal model: hub name, folder, zoo:NAME or pkg:NAME",
        ),
        option("--out", required=True, metavar="DIR", help="the new model's folder"),
        option(
            "--layers",
            metavar="N",
            help="how many layers are kept, or their numbers from 0, such as 0,2,4 "
            "(half of them)",
        ),
        option(
            "--rule",
            choices=RULES,
            help="which: evenly spaced, the lowest, evenly from the bottom, by what "
            "the loss owes them, by how much they change, or by leaving out the one "
            "that a text misses least, again and again (uniform)",
        ),
        option(
            "--use",
            default="layers",
            metavar="MAKER",
            help="another maker, or '{use: MAKER, OPTION: VALUE}' (layers); `mtkd "
            "plugins list` names them",
        ),
        option(
            "--data",
            action="append",
            default=[],
            metavar="TEXT",
            help="text that importance, density and search judge by, as data.train "
            "(zoo); may be repeated",
        ),
        *PLUGIN_OPTIONS,
    ),
)
