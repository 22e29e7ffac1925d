"""Configs that come with the package: those that run as they are, and recipes."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

from align.errors import InputError, meant, nearest
from align.foreign.quote import say
from align.support.field_types import shown
from experiments.config.parsing import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
"""What runs as it is, from embedded models and texts."""
RECIPES = Path(__file__).parents[1] / "recipes"
"""What people copy and change."""


def config_path(name: str | Path) -> Path:
    """Find a config by path, or by the name of a packaged one, a recipe included.

    Packaged names are spelt with ``_``; with ``-``, as one was, they are known, too.

    Raises:
        ConfigError: neither; lists the packaged ones.
    """
    path = Path(name)
    with suppress(OSError, ValueError):  # longer than names may be, or a zero byte
        if path.exists():
            return path
    spelt = str(name).replace("-", "_")
    for folder in (CONFIGS, RECIPES):
        inside = folder / f"{spelt}.yaml"
        with suppress(OSError, ValueError):
            if inside.parent == folder and inside.is_file():
                if spelt != str(name):
                    _note_spelling(str(name), spelt)
                return inside
    known = [*names_in(CONFIGS), *recipes()]
    hint = f" (did you mean {near!r}?)" if (near := nearest(str(name), known)) else ""
    raise ConfigError(
        f"config {shown(str(name))} is neither a file nor a packaged config "
        f"({', '.join(names_in(CONFIGS))}) nor a recipe ({', '.join(recipes())})"
        f"{hint}; `mtkd recipes copy NAME my.yaml` writes one to start from"
    )


@cache
def _note_spelling(name: str, spelt: str) -> None:
    """Once a process: a command looks for its config more than once."""
    say(f"note: the packaged config {name} is called {spelt}")


def names_in(folder: Path) -> list[str]:
    """The configs of a folder by name, in order."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def recipes() -> list[str]:
    """The recipes by name, in order."""
    return names_in(RECIPES)


def recipe_text(name: str) -> str:
    """A recipe as it is written, comments included.

    Raises:
        InputError: there is none of that name; says which there are.
    """
    names = recipes()
    if name not in names:
        raise InputError(
            f"there is no recipe {name!r}{meant(name, names)} There are "
            f"{', '.join(names)}"
        )
    return (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")


def what_for(text: str) -> str:
    """The first sentence of a config's comment, on one line."""
    words = []
    for line in text.splitlines():
        said = line.removeprefix("#").strip()
        if not line.startswith("#") or not said:
            break
        words.append(said)
    return " ".join(words)
