"""``mtkd eval``: measure a run's students, or any causal model."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from align.foreign.quote import put
from experiments.commands.parser import (
    JSON,
    PLUGIN_OPTIONS,
    Command,
    option,
    refuse_given,
    registry_of,
)
from experiments.commands.tables import print_table

if TYPE_CHECKING:
    from experiments.evaluators.asked import Measurements


def evaluate(options: Namespace) -> int:
    """Measure by what is asked for, bits per character where nothing is."""
    more = (options.use, options.teachers, options.pairs, options.trust or None)
    if any(part is not None for part in more):
        return _by_evaluators(options)
    from experiments.report.measure import measure

    if options.plugin or options.skip_plugin or options.no_plugins:
        registry_of(options, strict=False)  # what cannot be loaded is told
    results = measure(options.run, options.data, like=_like(options))
    if options.json:
        print(json.dumps(results, indent=1))
        return 0
    domains = list(dict.fromkeys(d for bpc in results.values() for d in bpc))
    rows = [
        [name, *(f"{bpc[domain]:.3f}" for domain in domains)]
        for name, bpc in results.items()
    ]
    title = f"{options.run}: held-out bits per character, lower is better"
    print_table(title, ["student", *domains], rows, numbers_from=1)
    return 0


def _by_evaluators(options: Namespace) -> int:
    from experiments.evaluators.chosen import USUAL, chosen, typed
    from experiments.evaluators.pairs import read_pairs
    from experiments.measuring.session import Session
    from experiments.report.measure import measure_by
    from student.evaluators.built_in import read_pairs_by

    uses = typed(options.use or [USUAL])
    evaluators = chosen(uses, registry_of(options, strict=False), "--use")
    if not read_pairs_by(evaluators.by_name.keys()):
        refuse_given(options, "no evaluator of --use reads them", pairs=None)
    session = Session(
        evaluators=evaluators,
        sources=_teachers(options),
        trusted=options.trust,
        pairs=read_pairs(options.pairs or ()),
    )
    measure_by(session, options.run, options.data, like=_like(options))
    measurements = session.finish(progress=True)
    if options.json:
        print(json.dumps(measurements.plain(), indent=1))
    else:
        _show(options.run, measurements)
    return 0


def _like(options: Namespace) -> Path | None:
    return None if options.like is None else Path(options.like)


def _teachers(options: Namespace) -> dict[str, str]:
    """Whom students are compared with: models that are named, or those of a run."""
    from align.errors import InputError
    from experiments.config.zoo_names import build_named
    from experiments.measuring.session import teachers_of
    from experiments.record.which_run import is_run

    named = bool(options.teachers)
    if options.trust and (options.teachers is None or named):
        raise InputError(
            "--trust is of a run's teachers; give --teachers without names beside it"
        )
    if options.teachers is None:
        return {}
    models = {name: name for name in options.teachers}
    if not models:
        if not is_run(options.run):
            raise InputError(
                f"--teachers alone means those of a run, and {options.run} is none; "
                "name models behind it"
            )
        models = teachers_of(Path(options.run).expanduser(), options.trust)
    build_named(models.values())
    return models


def _show(name: str, measurements: Measurements) -> None:
    from experiments.report.evaluation.tables import notes_of, tables_of

    put(f"{name}: ↓ lower is better, ↑ higher is better")
    for table in tables_of(measurements):
        print_table(
            table.title, table.heads, table.rows, numbers_from=table.numbers_from
        )
    for note in notes_of(measurements):
        put(f"note: {note}")


EVAL = Command(
    name="eval",
    action=evaluate,
    what="measure a run's students, or any causal model, on held-out text: in bits per "
    "character, or by evaluators of your choice",
    examples=(
        ("mtkd eval runs/quickstart", "every phase, on the run's own held-out text"),
        ("mtkd eval runs/quickstart --data news=news.txt", "on other text"),
        ("mtkd eval ./their-model --data news=news.txt", "a student of another tool"),
        (
            "mtkd eval gpt2 --like runs/quickstart",
            "a model of the hub, on the pieces that the run's students read",
        ),
        (
            "mtkd eval runs/quickstart --use bits_per_char size speed --teachers",
            "quality, size and speed, beside the run's teachers",
        ),
        (
            "mtkd eval runs/quickstart --use agreement '{use: speed, batches: [1, 8]}'",
            "evaluators with options; `mtkd plugins list --kind evaluator` names them",
        ),
        ("mtkd eval runs/quickstart --json", "for other programs"),
    ),
    options=(
        option(
            "run",
            metavar="RUN",
            help="a run's folder; or a model: its folder, hub name or zoo:NAME",
        ),
        option(
            "--data",
            nargs="+",
            metavar="TEXT",
            help="held-out texts, DOMAIN=PATH to name domains (the run's own); a model "
            "needs some",
        ),
        option(
            "--like",
            metavar="RUN",
            help="measure a model on the pieces of text, as long and as many, on which "
            "this run's students are measured",
        ),
        option(
            "--use",
            nargs="+",
            metavar="NAME",
            help="evaluators, by name or as '{use: NAME, OPTION: VALUE}' "
            "(bits_per_char)",
        ),
        option(
            "--teachers",
            nargs="*",
            metavar="MODEL",
            help="models to compare with, measured, too; without names those of the "
            "run",
        ),
        option(
            "--trust",
            nargs="+",
            default=[],
            metavar="TEACHER",
            help="teachers of the run whose own Python files may run; they are told "
            "with their SHA-256 first",
        ),
        option(
            "--pairs",
            nargs="+",
            metavar="FILE",
            help="JSON lines with prompt and completion, for the evaluator generation; "
            "DOMAIN=PATH to name domains",
        ),
        *PLUGIN_OPTIONS,
        JSON,
    ),
)
