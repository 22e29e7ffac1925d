"""``mtkd estimate`` and ``mtkd teachers``: what can be said before anything runs."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from align.foreign.quote import put
from experiments.commands.parser import (
    CONFIG_OPTIONS,
    JSON,
    Command,
    Group,
    config_of,
    count,
    option,
    refuse_given,
)
from experiments.commands.tables import print_table
from experiments.commands.viz import save

if TYPE_CHECKING:
    from experiments.config.tree import Config
    from experiments.estimate.words import Estimate


def estimate(options: Namespace) -> int:
    """Say what extraction and training need."""
    from experiments.assemble.text_sources import source_warnings, tell
    from experiments.config.parsing import ConfigError
    from experiments.estimate.needs import estimate as measure
    from experiments.estimate.words import gib, rows_of, said_of
    from experiments.record.progress import waiting

    config = config_of(options, looks=True)
    if options.plan and options.routing:
        raise ConfigError("--plan reads no text and --routing does; give one of them")
    if options.plan:
        refuse_given(options, "--plan reads no text", every_text=False)
        return _plan(config, options)
    if options.routing:
        why = "--routing measures some held-out texts in one process"
        refuse_given(options, why, every_text=False, processes=1)
        return _routing(config, options)
    tell(source_warnings(config))
    with waiting("loading models, reading texts and measuring a step"):
        measured = measure(config, options.processes, every=options.every_text)
    if options.json:
        print(json.dumps(measured.plain(), indent=1))
        return 0
    rows, run = rows_of(measured), measured.training
    counted = f"{len(run.arms)} arms" if len(run.arms) > 1 else "1 arm"
    title = f"training: {counted}, steps as {run.machine} takes them"
    heads = ["arm", "phases", "steps", "s/step", "time"]
    print_table(title, heads, rows["arms"], 1)
    put("\n".join(said_of(run)) + "\n")
    if measured.transformed:
        put("\n".join(measured.transformed) + "\n")
    if measured.stores:
        _stores(config, measured)
    there = gib(measured.device_memory)
    title = f"memory of one training process, products in {measured.products}"
    print_table(f"{title} ({there} there)", ["for", "size"], rows["memory"], 1)
    for warning in measured.warnings:
        put(f"warning: {warning}")
    return 0


def _stores(config: Config, measured: Estimate) -> None:
    from experiments.estimate.words import gib, rows_of

    heads = ["store", "tokens", "bytes/token", "disk", "hours", "break-even"]
    title = (
        f"stores {config.store_dir}: {measured.samples:,} texts, {config.store.form}"
    )
    rows = rows_of(measured)["stores"]
    print_table(f"{title}, {config.store.encoding}", heads, rows, 1)
    put(
        f"in all {gib(measured.disk)} of {gib(measured.free)} free; reading beats "
        "computing again from the break-even bandwidth on\n"
    )


ESTIMATE = Command(
    name="estimate",
    action=estimate,
    what="say, before anything runs, what training and extraction need, by some steps "
    "of each phase and a probe of each teacher on this machine: arms, time, disk "
    "and memory of a run; tokens, disk and hours of stores",
    examples=(
        ("mtkd estimate my.yaml", "by a short probe of each model"),
        ("mtkd estimate my.yaml store.form=adapted store.encoding=int8", "smaller"),
        ("mtkd estimate quickstart --json", "for other programs"),
        (
            "mtkd estimate one_card --plan",
            "memory line by line, from config.json alone",
        ),
        (
            "mtkd estimate my.yaml --routing",
            "what a router could gain at most with these teachers and texts",
        ),
    ),
    options=(
        *CONFIG_OPTIONS,
        JSON,
        option(
            "--every-text",
            action="store_true",
            help="count the tokens of all texts, not of a sample: the size on disk is "
            "then exact",
        ),
        option(
            "--plan",
            action="store_true",
            help="memory of training alone, line by line, from the models' "
            "config.json: needs no weights, tokenizers or texts",
        ),
        option(
            "--routing",
            action="store_true",
            help="instead: bits per character of each teacher, of all with equal "
            "weights, of weights by what was read, and of the right teacher for every "
            "text, on held-out stretches that all teachers end with whole tokens",
        ),
        option(
            "--processes",
            type=count,
            default=1,
            metavar="N",
            help="processes that train together, among which ZeRO divides (1)",
        ),
    ),
)


def _plan(config: Config, options: Namespace) -> int:
    from dataclasses import asdict

    from experiments.config.presets import load_registry
    from experiments.estimate.counted import memory_plan, planned_arms
    from experiments.estimate.words import gib
    from experiments.making.made import with_made_student

    config = with_made_student(config, load_registry(config))
    lines = memory_plan(config, options.processes)
    arms = planned_arms(config)
    total = sum(line.size for line in lines)
    if options.json:
        plain_lines = [asdict(line) for line in lines]
        print(
            json.dumps({"lines": plain_lines, "in_all": total, "arms": arms}, indent=1)
        )
        return 0
    rows = [[line.of, line.what, gib(line.size)] for line in lines]
    rows.append(["", "in all", gib(total)])
    print_table("memory of one training process", ["of", "what", "size"], rows, 2)
    put("not counted: the CUDA context, libraries, and what an allocator leaves unused")
    put(f"arms that train one after another: {', '.join(arms)}")
    return 0


def _routing(config: Config, options: Namespace) -> int:
    from experiments.estimate.routing import estimate_routing
    from experiments.routing_room.words import room_rows, room_sentences

    room = estimate_routing(config)
    if options.json:
        print(json.dumps(room.plain(), indent=1))
        return 0
    heads, rows = room_rows(room.plain())
    print_table("bits per character of common stretches of text", heads, rows, 1)
    put("\n".join(room_sentences(room.plain())))
    return 0


def compare(options: Namespace) -> int:
    """Read held-out text with every teacher, and say who is worth asking."""
    from experiments.estimate.pool import compare_teachers
    from experiments.teacher_pool.picture import draw_pool
    from experiments.teacher_pool.words import pair_rows, sentences, teacher_rows

    pool = compare_teachers(config_of(options, looks=True), texts=options.texts)
    if options.out:
        path = save(draw_pool(pool), Path(options.out))
        if not options.json:
            put(f"wrote {path}")
    if options.json:
        print(json.dumps(pool.plain(), indent=1))
        return 0
    heads, rows = teacher_rows(pool)
    print_table("bits per character of common stretches of text", heads, rows, 1)
    print_table("two by two", *pair_rows(pool), 1)
    put("\n".join(sentences(pool)))
    return 0


COMPARE = Command(
    name="compare",
    action=compare,
    what="say who of a config's teachers is worth asking, from one pass over held-out "
    "text, in bits per character of stretches that all end with whole tokens: each "
    "alone and by domain, what all need more without it, its cost; of each pair what "
    "both come to, how far they disagree, how alike losses and inner states are; and a "
    "subset, beside which a further teacher saves less than a hundredth",
    examples=(
        ("mtkd teachers compare my.yaml", "tables, and who is suggested"),
        ("mtkd teachers compare quickstart --out teachers.png", "with a picture"),
        ("mtkd teachers compare my.yaml --json > teachers.json", "for other programs"),
        (
            "mtkd teachers compare my.yaml data.eval=[mine.txt] --texts 200",
            "on text of yours, more of it",
        ),
    ),
    options=(
        *CONFIG_OPTIONS,
        JSON,
        option("--out", metavar="PNG", help="also draw a picture here"),
        option(
            "--texts",
            type=count,
            default=64,
            metavar="N",
            help="texts of each domain that are read (64)",
        ),
    ),
)

TEACHERS = Group(
    name="teachers",
    what="compare the teachers of a config",
    examples=(("mtkd teachers compare my.yaml", "who is worth asking"),),
    commands=(COMPARE,),
)
