"""``mtkd generate``: a run's students, or any model, go on with prompts."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.foreign.quote import visible
from experiments.commands.parser import JSON, Command, option
from experiments.commands.tables import console

if TYPE_CHECKING:
    from rich.text import Text

    from experiments.writing.drawing import Drawing
    from experiments.writing.sources import Source
    from experiments.writing.writer import Writer, Written

RUN_OR_MODEL = option(
    "run",
    metavar="RUN_OR_MODEL",
    help="a run's folder; or a model: its folder, hub name or zoo:NAME",
)
PHASE = "--phase"

DRAWING_OPTIONS = (
    option(
        "--max-new-tokens",
        type=int,
        default=40,
        metavar="N",
        help="at most so many tokens (40)",
    ),
    option(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest token every time (0); higher draws more freely",
    ),
    option(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw among the likeliest tokens that have this share together (1)",
    ),
    option("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)"),
)
"""How the next token is chosen; see :func:`drawing_of`."""


def drawing_of(options: Namespace) -> Drawing:
    """What a command line says of how tokens are chosen.

    Raises:
        InputError: a value out of its range.
    """
    from experiments.writing.drawing import Drawing

    return Drawing(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )


def generate(options: Namespace) -> int:
    """Let every student go on with every prompt, and set them side by side."""
    from experiments.writing.sources import sources_of

    drawing = drawing_of(options)
    prompts = _prompts(options)
    sources = sources_of(
        options.run,
        phase=options.phase,
        all_phases=options.all_phases,
        baselines=options.baselines,
    )
    columns = [
        (source.label, _written(source, prompts, drawing, options.chat))
        for source in sources
    ]
    if options.json:
        print(json.dumps(_plain(options.run, prompts, columns), indent=1))
        return 0
    _show(prompts, columns)
    return 0


GENERATE = Command(
    name="generate",
    action=generate,
    what="let a run's student, before and after, or any model go on with prompts",
    examples=(
        ('mtkd generate runs/quickstart --prompt "The sea"', "before and after"),
        (
            'mtkd generate runs/quickstart --prompt "def f(" --all-phases --baselines',
            "after every phase, and beside the baselines",
        ),
        (
            'mtkd generate zoo:gpt2-prose --prompt "One" --prompt "Two"',
            "any model, several prompts",
        ),
        (
            'mtkd generate runs/quickstart --prompt "Once" --temperature 0.8 --seed 3',
            "drawn; the same seed draws the same",
        ),
        ("mtkd generate ./model --prompt-file prompts.txt --json", "a prompt a line"),
        ("echo The sea | mtkd generate runs/quickstart", "from another program"),
    ),
    options=(
        RUN_OR_MODEL,
        option(
            "--prompt",
            action="append",
            default=[],
            metavar="TEXT",
            help="what to go on from; may be repeated; without any, stdin is read, a "
            "prompt a line",
        ),
        option(
            "--prompt-file",
            metavar="FILE",
            help="a file of prompts, one a line; - for stdin",
        ),
        option(
            PHASE,
            metavar="NAME",
            help="of a run: before and after this phase, in place of the whole run",
        ),
        option("--all-phases", action="store_true", help="of a run: after each phase"),
        option(
            "--baselines",
            action="store_true",
            help="of a run: also the students of its baselines, such as CE only",
        ),
        option(
            "--chat",
            action="store_true",
            help="prompts are messages, put into the model's chat template",
        ),
        *DRAWING_OPTIONS,
        JSON,
    ),
)


def _prompts(options: Namespace) -> list[str]:
    """The prompts of a command line, its file, or stdin.

    Raises:
        InputError: there is none, one is empty, or a phase is named beside all.
    """
    from align.errors import InputError, prefix_errors
    from align.text.files import text_blocks

    if options.phase is not None and options.all_phases:
        raise InputError("--phase and --all-phases contradict; give one of them")
    prompts = list(options.prompt)
    if "" in prompts:
        raise InputError("the prompt is empty; give the words to go on from")
    if options.prompt_file not in (None, "-"):
        with prefix_errors("--prompt-file"):
            text = "".join(text_blocks(Path(options.prompt_file)))
        prompts += _lines(text)
    elif options.prompt_file == "-" or not prompts:
        if sys.stdin.isatty() and options.prompt_file is None:
            raise InputError('no prompt; give one, such as --prompt "The sea"')
        prompts += _lines(sys.stdin.read())
    if not prompts:
        raise InputError(
            f"{options.prompt_file or 'stdin'} holds no prompt; give one a line, or "
            '--prompt "The sea"'
        )
    return prompts


def _lines(text: str) -> list[str]:
    # not splitlines: of what Unicode also calls the end of a line, prompts may hold any
    lines = text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line.strip()]


def _written(
    source: Source, prompts: Sequence[str], drawing: Drawing, chat: bool
) -> list[Written]:
    writer = source.load()
    return writer.write([_ids(writer, p, chat) for p in prompts], drawing)


def _ids(writer: Writer, prompt: str, chat: bool) -> list[int]:
    if not chat:
        return writer.ids(prompt)
    return writer.chat_ids([{"role": "user", "content": prompt}])


Columns = Sequence[tuple[str, Sequence["Written"]]]


def _plain(name: str, prompts: Sequence[str], columns: Columns) -> dict[str, Any]:
    return {
        "name": name,
        "prompts": [
            {
                "prompt": prompt,
                "students": [
                    {
                        "student": label,
                        "text": texts[index].text,
                        "stopped": texts[index].stopped,
                    }
                    for label, texts in columns
                ],
            }
            for index, prompt in enumerate(prompts)
        ],
    }


def _show(prompts: Sequence[str], columns: Columns) -> None:
    """A block for every prompt; several students stand side by side in a table."""
    from rich.table import Table

    shown = console()
    if len(columns) == 1:
        for prompt, written in zip(prompts, columns[0][1], strict=True):
            shown.print(_text(prompt, "bold") + _text(written.text))
        return
    for index, prompt in enumerate(prompts):
        table = Table(title=_text(prompt, "bold"), title_justify="left", expand=True)
        cells = []
        for label, texts in columns:
            table.add_column(label, ratio=1, overflow="fold")
            cells.append(_text(texts[index].text.rstrip()))
        table.add_row(*cells)
        shown.print(table)


def _text(text: str, style: str = "") -> Text:
    """Without what would move a terminal's cursor."""
    from rich.text import Text

    return Text(visible(text, lines=True), style)
