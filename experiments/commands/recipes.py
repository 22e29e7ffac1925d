"""``mtkd recipes``: commented configs to read, copy and change."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from shlex import quote

from experiments.commands.parser import Command, Group, option

NAME = option("name", metavar="NAME", help="of a recipe; `mtkd recipes list`")


def list_all(options: Namespace) -> int:
    """Say which recipes there are and what each is for."""
    from experiments.commands.tables import print_table
    from experiments.config.packaged import recipe_text, recipes, what_for

    rows = [[name, what_for(recipe_text(name))] for name in recipes()]
    title = "recipes: configs to copy and change"
    print_table(title, ["name", "what for"], rows)
    print(
        "`mtkd recipes show NAME` prints one with a reason for every setting, "
        "`mtkd recipes copy NAME` writes it to NAME.yaml"
    )
    return 0


def show(options: Namespace) -> int:
    """Print a recipe."""
    from experiments.config.packaged import recipe_text

    print(recipe_text(options.name), end="")
    return 0


def copy(options: Namespace) -> int:
    """Write a recipe where it can be changed, over nothing."""
    from align.errors import InputError
    from experiments.config.packaged import recipe_text

    text = recipe_text(options.name)
    path = Path(options.path or ".").expanduser()
    if path.is_dir():
        path = path / f"{options.name}.yaml"
    elif str(options.path).endswith("/"):
        raise InputError(f"there is no folder {path}; make it, or give a file's name")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            f"{path} is there already and is left as it is; take it away, or copy "
            f"to another path: `mtkd recipes copy {options.name} PATH`"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); give a file in a folder "
            "that is there and yours"
        ) from None
    print(f"wrote {path}; put your models and texts into it, then see what it does:")
    print(f"  mtkd train {quote(str(path))} --dry-run")
    return 0


RECIPES = Group(
    name="recipes",
    what="commented configs for what people do, to read, copy and change",
    examples=(
        ("mtkd recipes list", "what there is"),
        ("mtkd recipes show one_teacher", "one, with a reason for every setting"),
        ("mtkd recipes copy one_teacher my.yaml", "to change it"),
        ("mtkd estimate one_teacher --plan", "they are known by name, like any config"),
    ),
    commands=(
        Command(
            name="list",
            action=list_all,
            what="say which recipes there are and what each is for",
            examples=(("mtkd recipes list", ""),),
        ),
        Command(
            name="show",
            action=show,
            what="print a recipe with its comments",
            examples=(("mtkd recipes show one_card", ""),),
            options=(NAME,),
        ),
        Command(
            name="copy",
            action=copy,
            what="write a recipe to a file, unless there is one",
            examples=(
                ("mtkd recipes copy one_card", "to one_card.yaml"),
                ("mtkd recipes copy one_card my.yaml", "to a file of your choice"),
            ),
            options=(
                NAME,
                option(
                    "path",
                    nargs="?",
                    metavar="PATH",
                    help="a file that is not there, or a folder (NAME.yaml here)",
                ),
            ),
        ),
    ),
)
