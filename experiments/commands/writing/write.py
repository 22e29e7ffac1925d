"""``mtkd write``: a teacher, or any model, writes text for others to learn from."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.foreign.quote import put, say
from experiments.commands.output import lasting_output
from experiments.commands.parser import (
    CONFIG_OPTIONS,
    SHARE,
    Command,
    config_of,
    count,
    option,
    refuse_given,
    share_in,
    tell_stopped,
)

if TYPE_CHECKING:
    from experiments.config.tree import Config
    from experiments.writing.corpus import Outcome
    from experiments.writing.openings import Opening
    from experiments.writing.writer import Writer

BEGINNINGS, NOTHING = "beginnings", "nothing"
STUDENT = "student"
OPENING_TOKENS = 16
"""Of a text's beginning, if nothing else is said."""


@lasting_output("writing")
def write(options: Namespace) -> int:
    """Write what is missing of this task's share."""
    from experiments.config.presets import load_registry
    from experiments.extraction.run import share_of
    from experiments.record.progress import Progress
    from experiments.record.stop import RunStopped, stop_on_signals
    from experiments.writing.choice import try_way, way_of
    from experiments.writing.corpus import Plan, write_corpus
    from experiments.writing.sources import load_writer
    from teacher.writing import Greedy

    config, out = config_of(options), _file(options.out)
    share = share_in(options.shard)
    chosen = _typed(options.writer)
    registry = load_registry(config)
    way = way_of(chosen, registry, "--writer")
    try_way(chosen, registry)
    model, given = _model(config, options.by)
    writer = load_writer(options.by, model, given[0], given[1])
    openings = _openings(options, config, writer, greedy=isinstance(way, Greedy))
    plan = Plan(
        openings=openings,
        way=way,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        facts={
            "by": options.by,
            "writer": chosen,
            "from": options.prompts or options.openings,
            **_digests(model, writer, openings),
        },
    )
    numbers = share_of(plan.parts, share)
    with stop_on_signals() as stop:
        try:
            outcome = write_corpus(out, plan, writer, numbers, Progress(stop=stop))
        except RunStopped as stopped:
            return tell_stopped(stopped)
    _report(out, outcome)
    return 0


WRITE = Command(
    name="write",
    action=write,
    what="let a teacher write text to learn from: prompts answered, texts continued",
    examples=(
        (
            "mtkd write my.yaml --by llama --out written.jsonl",
            "go on from the first words of every text of data.train, greedily",
        ),
        (
            "mtkd write my.yaml --by llama --out w.jsonl --writer '{use: beam}'",
            "all beams of each, with weights",
        ),
        (
            "mtkd write --by pkg:smollm2 --prompts questions.txt --chat --out a.jsonl",
            "answers, a prompt a line; no config",
        ),
        (
            "mtkd write --by pkg:smollm2 --openings nothing --writer sample "
            "--number 500 --out n.jsonl",
            "from nothing",
        ),
        (
            "mtkd write my.yaml --by llama --out w.jsonl --shard 3/8",
            "the third of eight tasks; see scripts/extract_teacher_kv.sh",
        ),
        ("mtkd train my.yaml data.train='[texts, w=written.jsonl]'", "learn from it"),
    ),
    options=(
        *CONFIG_OPTIONS,
        option(
            "--by",
            required=True,
            metavar="NAME",
            help="who writes: a teacher of the config, student (its first weights), or "
            "a model: its folder, hub name, zoo:NAME, pkg:NAME",
        ),
        option(
            "--out",
            required=True,
            metavar="FILE",
            help="a .jsonl, a row a line, as data.train reads it; where it came from "
            "stands in every row and in FILE.json",
        ),
        option(
            "--openings",
            choices=(BEGINNINGS, NOTHING),
            default=BEGINNINGS,
            help="what to go on from, without --prompts: the first words of the texts "
            "of data.train, or the turns before a conversation's last answer "
            "(beginnings); or nothing",
        ),
        option(
            "--prompts",
            metavar="FILE",
            help="go on from these: one a line, or .jsonl with prompt or messages",
        ),
        option(
            "--chat",
            action="store_true",
            help="prompts are messages, put into the model's chat template",
        ),
        option(
            "--opening-tokens",
            type=count,
            default=OPENING_TOKENS,
            metavar="N",
            help="of a beginning, by the writer's tokenizer (16)",
        ),
        option(
            "--number",
            type=count,
            metavar="N",
            help="of openings (all; 100 from nothing); none is taken twice",
        ),
        option(
            "--writer",
            default="greedy",
            metavar="WAY",
            help="greedy, sample, beam, diverse or a plugin's, or '{use: sample, "
            "temperature: 0.8, top_p: 0.95, texts: 4}' (greedy)",
        ),
        option(
            "--max-new-tokens",
            type=count,
            default=128,
            metavar="N",
            help="at most so many tokens (128)",
        ),
        option("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)"),
        SHARE,
    ),
)


def _file(name: str) -> Path:
    """Where the rows go.

    Raises:
        InputError: data.train would not read it as rows, or a folder stands there.
    """
    from align.errors import InputError
    from align.text.files import PACKED, kind_of

    out = Path(name).expanduser()
    if out.is_dir() or out.suffix in PACKED or kind_of(out) != "lines":
        raise InputError(
            f"--out {name}: rows of JSON go into a file; give one whose name ends in "
            ".jsonl, by which data.train reads it"
        )
    return out


def _typed(text: str) -> Any:
    """``NAME``, or a mapping as YAML says it."""
    from align.bounds.yaml_document import read_yaml

    return read_yaml(text, "--writer") if text.lstrip().startswith("{") else text


def _model(config: Config, by: str) -> tuple[str, tuple[int | None, str | None]]:
    """What to load, and of the student its seed and vocabulary."""
    from align.errors import InputError, meant, nearest
    from experiments.config.presets import load_registry
    from experiments.making.made import with_made_student

    if by in config.teachers:
        return config.teachers[by].model, (None, None)
    if by == STUDENT and config.student.model:
        config = with_made_student(config, load_registry(config))
        fresh = config.student.init == "fresh"
        seed = config.run.seed if fresh else None
        return config.student.model, (seed, config.vocabulary)
    known = [*config.teachers, *([STUDENT] if config.student.model else [])]
    mistyped = by.isidentifier() or nearest(by, known)  # of the hub it may be, too
    if known and mistyped and not Path(by).exists():
        raise InputError(
            f"--by {by}: no teacher of the config{meant(by, known)} It has "
            f"{', '.join(known)}; or give a model"
        )
    return by, (None, None)


def _digests(
    model: str, writer: Writer, openings: Sequence[Opening]
) -> dict[str, str | None]:
    """What tells the writer and what it goes on from from others of their names."""
    from experiments.assemble.fingerprint import tokenizer_digest, weights_digest
    from experiments.writing.openings import digest

    return {
        "model": model,
        "weights": weights_digest(model),
        "tokenizer": tokenizer_digest(writer.tokenizer),
        "openings_sha256": digest(openings),
    }


def _openings(
    options: Namespace, config: Config, writer: Writer, *, greedy: bool
) -> list[Opening]:
    from align.errors import InputError
    from experiments.assemble.text_sources import Reading
    from experiments.writing.openings import Opening, beginnings, prompts

    if options.prompts is not None:
        why = "--prompts says what to go on from"
        refuse_given(options, why, openings=BEGINNINGS, opening_tokens=OPENING_TOKENS)
        return prompts(Path(options.prompts), options.number, chat=options.chat)
    if options.chat:
        raise InputError("--chat says how --prompts are read; give --prompts FILE")
    if options.openings == NOTHING:
        why = "--openings nothing has no beginnings"
        refuse_given(options, why, opening_tokens=OPENING_TOKENS)
        if greedy:  # each goes on from the same
            raise InputError(
                "--openings nothing with --writer greedy writes one text again and "
                "again; draw instead: --writer sample"
            )
        number = options.number or 100
        return [Opening("", id=f"nothing:{index}") for index in range(number)]
    texts = Reading(config.data).samples("train", "student")
    openings = beginnings(texts, writer, options.opening_tokens, options.number)
    if not openings:
        raise InputError("data.train has no text to begin with; give --prompts FILE")
    return openings


def _report(out: Path, outcome: Outcome) -> None:
    """Say what came of it.

    Raises:
        InputError: the file is whole and holds no text.
    """
    from align.errors import InputError

    put(f"{out}: parts written: {outcome.made}, there already: {outcome.kept}")
    if outcome.missing:
        put(f"{out}: {len(outcome.missing)} parts are still missing")
        return
    counts = outcome.counts
    if counts["rows"]:
        put(f"{out}: {counts['rows']:,} texts; train with data.train='[w={out}]'")
    reasons = {
        "twice": "were there twice",
        "empty": "were empty",
        "skipped": "began with what the model cannot read",
    }
    for name, reason in reasons.items():
        if counts[name]:
            say(f"warning: {counts[name]:,} texts {reason} and were left out")
    if not counts["rows"]:
        raise InputError(
            f"{out} holds no text: the model wrote nothing that counts; give more of "
            "--max-new-tokens, other openings, or --writer sample, and another --out"
        )
