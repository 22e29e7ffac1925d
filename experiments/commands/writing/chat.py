"""``mtkd chat``: talk with a run's student, or any model, on the terminal."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from align.foreign.quote import say, visible
from experiments.commands.parser import Command, option
from experiments.commands.writing.generate import (
    DRAWING_OPTIONS,
    PHASE,
    RUN_OR_MODEL,
    drawing_of,
)

if TYPE_CHECKING:
    from experiments.writing.talk import Talk

HELP = "/reset forgets the talk, /quit or Ctrl-D ends it, Ctrl-C stops an answer"
PLAIN = "{} has no chat template: it goes on with your text as it is"


def chat(options: Namespace) -> int:
    """Read lines and answer each, until they end."""
    from align.errors import InputError
    from experiments.writing.sources import student_source
    from experiments.writing.talk import Talk

    drawing = drawing_of(options)
    source = student_source(options.run, options.phase)
    writer = source.load()
    if writer.start is not None:
        raise InputError(
            f"{options.run} is an encoder-decoder, which writes a target of a source "
            "and holds no talk; see mtkd generate"
        )
    _note(f"{options.run}, {source.label}; {HELP}")
    if not writer.talks:
        _note(PLAIN.format(source.label))
    _converse(Talk(writer, drawing))
    return 0


CHAT = Command(
    name="chat",
    action=chat,
    what="talk with a run's student, or any model, on the terminal",
    examples=(
        ("mtkd chat runs/quickstart", "the run's last student"),
        ("mtkd chat runs/quickstart --phase dual", "the student after one phase"),
        ("mtkd chat ./instruct-model --temperature 0.7", "in its chat template"),
        ("printf 'Hello\\n/reset\\nHi\\n' | mtkd chat runs/quickstart", "a script"),
    ),
    options=(
        RUN_OR_MODEL,
        option(PHASE, metavar="NAME", help="of a run: the student after this phase"),
        *DRAWING_OPTIONS,
    ),
)


def _converse(talk: Talk) -> None:
    from align.errors import InputError

    while (line := _next_line()) is not None:
        if line.strip() == "/quit":
            return
        if line.strip() == "/reset":
            talk.reset()
            _note("forgotten")
            continue
        if line.strip().startswith("/"):
            _note(f"no command {line.strip().split()[0]!r}; {HELP}")
            continue
        if not line.strip():
            continue
        try:
            talk.answer(line, _say)
        except InputError as error:  # of this message; the talk goes on
            _note(str(error))
            continue
        _say("\n")
        if talk.forgotten:
            turns = "turn" if talk.forgotten == 1 else "turns"
            _note(
                f"the oldest {talk.forgotten} {turns} no longer fit and are forgotten"
            )


def _next_line() -> str | None:
    """The next line, None where there is no more; an interrupt asks anew."""
    terminal = sys.stdin.isatty()
    while True:
        try:
            if terminal:
                return input("> ")
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            if not terminal:
                raise
            print()


def _say(text: str) -> None:
    print(visible(text, lines=True), end="", flush=True)


def _note(text: str) -> None:
    """Beside the talk, so that answers alone are on stdout."""
    say(f"[{text}]")
