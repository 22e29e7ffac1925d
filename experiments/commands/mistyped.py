"""What a mistyped command line is answered: the nearest command, option or setting."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from align.errors import meant, nearest


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong and what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """End with what is wrong, and where help is."""
        from align.errors import USER_ERROR  # loads PyTorch, which help must not

        ended = " " if message.endswith("?") else "; "
        help_is = f"`{self.prog} --help` shows what it takes"
        print(f"mtkd: error: {message}{ended}{help_is}", file=sys.stderr)
        self.exit(USER_ERROR)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            what = f"unknown command {value!r}"
        else:
            what = f"{'/'.join(action.option_strings) or action.dest} is {value!r}"
        raise argparse.ArgumentError(
            None, f"{what}{meant(str(value), names)} Valid: {', '.join(names)}"
        )


def unknown_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Word the error for words that a command does not take.

    Args:
        parser: the command's.
        words: what was left over, in order.
    """
    wrong = next((word for word in words if word.startswith("-")), None)
    if wrong is None:
        return f"{parser.prog} does not take {' '.join(map(repr, words))}"
    name, _, value = wrong.partition("=")
    known = list(parser._option_string_actions)
    near = nearest(name, known)
    said = f"unknown option {name!r}"
    settings = any(action.dest == "overrides" for action in parser._actions)
    if near or not settings:
        return said + meant(name, known).rstrip(".")
    return f"{said}; {_as_setting(name.lstrip('-'), value)}"


def _as_setting(word: str, value: str) -> str:
    """What may be meant by an option that a setting might be."""
    from experiments.config.schema import nearest_name, valid_names
    from experiments.config.synonyms import called_here
    from experiments.config.tree import Config

    names = list(valid_names(Config))
    key = word if word in names else word.replace("-", "_")
    here = called_here(key, names)
    if here is not None:
        return f"as a setting it is {here}, given as KEY=VALUE without dashes"
    near = key if key in names else nearest_name(key, names)
    example = f"{near or 'train.steps'}={value or 'VALUE'}"
    return f"settings are given without dashes, as {example}"
