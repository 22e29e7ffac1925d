"""``mtkd extract`` and ``mtkd store``."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from align.foreign.quote import put, say
from experiments.commands.output import lasting_output
from experiments.commands.parser import (
    CONFIG_OPTIONS,
    JSON,
    PLUGIN_OPTIONS,
    SHARE,
    STOPPED,
    Command,
    Group,
    config_of,
    option,
    share_in,
    with_plugins,
)
from experiments.commands.tables import print_table

if TYPE_CHECKING:
    from experiments.config.tree import Config
    from experiments.extraction.run import Outcome
    from teacher.store.upkeep import Summary

DAMAGED = 2
"""Exit code of ``store verify`` where something is wrong."""

STORES = option("path", help="a store, or a folder of stores")


def extract(options: Namespace) -> int:
    """Store a config's teachers."""
    share = share_in(options.shard)
    return _extract(config_of(options), share)


EXTRACT = Command(
    name="extract",
    action=extract,
    what="store what a config's teachers make of its training text",
    examples=(
        ("mtkd extract my.yaml", "into kv/my, one folder a teacher"),
        ("mtkd extract my.yaml store.encoding=int8", "half the size"),
        ("mtkd extract my.yaml store.top_k=64", "next-token outputs, too"),
        ("mtkd extract my.yaml --shard 3/8", "the third of eight tasks"),
        (
            "mtkd extract teachers='[gpt2, ./opt]' student.model=./s "
            "data.train='[a.txt]' phases='[dual]'",
            "no file at all",
        ),
    ),
    options=(
        *CONFIG_OPTIONS,
        SHARE,
    ),
)


def info(options: Namespace) -> int:
    """Say what stores hold."""
    from teacher.store.manifest import MANIFEST
    from teacher.store.upkeep import stores_in, summarize

    paths = stores_in(Path(options.path))
    summaries = {path.name: summarize(path) for path in paths}
    if options.json:
        print(json.dumps({n: _plain(s) for n, s in summaries.items()}, indent=1))
        return 0
    rows = [[name, *_row(summary)] for name, summary in summaries.items()]
    heads = ["store", "form", "encoding", "shards", "texts", "tokens", "MiB"]
    heads += ["bytes/token", "error K", "error V", "attention KL", "outputs", "KL"]
    print_table(f"stores in {options.path}", heads, rows, numbers_from=3)
    for path in paths:
        name, summary = path.name, summaries[path.name]
        if summary.skipped:
            put(f"{name}: {summary.skipped} texts were skipped as not finite")
        if not summary.merged:
            put(
                f"{name}: not finished, there is no {path / MANIFEST}; `mtkd extract` "
                "makes what is missing"
            )
    return 0


INFO = Command(
    name="info",
    action=info,
    what="list what a store, or each store of a folder, holds",
    examples=(
        ("mtkd store info kv/my", "all of a run's"),
        ("mtkd store info kv/my/gpt2 --json", "one, for other programs"),
    ),
    options=(STORES, JSON),
)


def verify(options: Namespace) -> int:
    """Recompute every digest."""
    from experiments.record.progress import waiting
    from teacher.store.upkeep import stores_in
    from teacher.store.upkeep import verify as faults_of

    wrong = 0
    for path in stores_in(Path(options.path)):
        with waiting(f"recomputing the digests of {path}"):
            faults = faults_of(path)
        wrong += len(faults)
        for fault in faults:
            shard = "" if fault.shard is None else f" (shard {fault.shard})"
            put(f"{path.name}{shard}: {fault.what}")
        if not faults:
            put(f"{path}: whole")
    if wrong:
        put(f"{wrong} faults; `mtkd store repair {options.path}` makes them good")
    return DAMAGED if wrong else 0


VERIFY = Command(
    name="verify",
    action=verify,
    what="recompute every digest and name what is damaged, missing or foreign",
    examples=(("mtkd store verify kv/my", "exits with 2 where something is wrong"),),
    options=(STORES,),
)


@lasting_output("the merging")
def merge(options: Namespace) -> int:
    """Write manifests."""
    from teacher.store.upkeep import merge as write_manifest
    from teacher.store.upkeep import stores_in

    for path in stores_in(Path(options.path)):
        manifest = write_manifest(path)
        put(f"{path}: {manifest.samples} texts in {len(manifest.data)} shards")
    return 0


MERGE = Command(
    name="merge",
    action=merge,
    what="write the manifest once every shard is there, whoever made it",
    examples=(("mtkd store merge kv/my", "after an array job"),),
    options=(STORES,),
)


@lasting_output("the repair")
def repair(options: Namespace) -> int:
    """Take out what is damaged and extract it again."""
    from align.errors import MissingFileError, prefix_errors
    from experiments.config.tree import load_kept_config
    from experiments.record.folder_code import check_trusted
    from teacher.store.records import shard_ranges
    from teacher.store.upkeep import stores_in, take_out
    from teacher.store.upkeep import verify as faults_of

    root = Path(options.path)
    saved = next(
        (p / "config.yaml" for p in (root, root.parent) if _config_in(p)), None
    )
    if saved is None and not options.take_out_only:
        raise MissingFileError(
            f"{root} has no config.yaml of an extraction; give the folder that `mtkd "
            "extract` wrote, or save KV of your own again"
        )
    config = None
    if saved is not None and not options.take_out_only:
        config = load_kept_config(saved)
        check_trusted(saved, config)
        config = with_plugins(config, options, folder_config=saved)
    for path in stores_in(root):
        broken = take_out(path, faults_of(path))
        if broken:
            put(f"{path}: took out shards {shard_ranges(broken)}")
    if options.take_out_only:
        return 0
    assert saved is not None and config is not None
    with prefix_errors(f"by {saved}"):
        return _extract(_lying_in(config, saved.parent), (1, 1))


REPAIR = Command(
    name="repair",
    action=repair,
    what="take damaged shards out and extract just those again",
    examples=(
        ("mtkd store repair kv/my", "by the config that lies beside it"),
        ("mtkd store repair kv/my --take-out-only", "for an array job to fill"),
    ),
    options=(
        option("path", help="the folder that `mtkd extract` wrote"),
        option(
            "--take-out-only",
            action="store_true",
            help="do not extract them again here",
        ),
        *PLUGIN_OPTIONS,
    ),
)

STORE = Group(
    name="store",
    what="look after stored teachers",
    examples=(
        ("mtkd store info kv/my", "what is there and how good it is"),
        ("mtkd store verify kv/my", "recompute every digest"),
    ),
    commands=(INFO, VERIFY, MERGE, REPAIR),
)


def _lying_in(config: Config, folder: Path) -> Config:
    """The config of stores that were moved, or say that they lie elsewhere: what is
    repaired is where the user points."""
    from dataclasses import replace

    here = folder.resolve()
    if config.store_dir.resolve() == here:
        return config
    store = replace(config.store, dir=str(here.parent), name=here.name)
    return replace(config, store=store)


def _config_in(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


@lasting_output("the extraction")
def _extract(config: Config, share: tuple[int, int]) -> int:
    from experiments.assemble.text_sources import source_warnings, tell
    from experiments.extraction.run import extract as run
    from experiments.record.stop import stop_on_signals

    tell(source_warnings(config))
    with stop_on_signals() as stop:
        outcome = run(config, share, stop=stop)
    _report(config, outcome)
    return STOPPED if outcome.stopped else 0


def _report(config: Config, outcome: Outcome) -> None:
    for line in outcome.skipped:
        say(f"warning: skipped {line}")
    said = [f"{outcome.made} shards made", f"{outcome.kept} there already"]
    if outcome.elsewhere:
        said.append(f"{outcome.elsewhere} left to other tasks")
    put(f"{config.store_dir}: {', '.join(said)}")
    for name, missing in outcome.unfinished.items():
        put(f"{name}: still lacks shards {missing}")
    if outcome.stopped:
        put("stopped as asked; the same command goes on from there")
    elif not outcome.unfinished:
        put(f"whole: train with store.read=true (store.name={config.store_dir.name})")


def _row(summary: Summary) -> list[str]:
    plan = summary.plan
    errors = plan.facts.get("errors")
    shown = errors if isinstance(errors, dict) else {}
    kl, outputs = shown.get("attention_kl"), plan.outputs
    return [
        plan.form,
        _encoding(summary),
        f"{summary.finished}/{summary.shards}",
        f"{summary.samples:,}",
        f"{summary.tokens:,}",
        f"{summary.data_bytes / 2**20:.1f}",
        f"{summary.bytes_per_token:,.0f}",
        *(_percent(shown.get(part)) for part in ("k", "v")),
        f"{max(0.0, kl):.1e}" if isinstance(kl, int | float) else "exact",
        "none" if outputs is None else f"top {outputs.top_k}, {outputs.log_probs}",
        "" if outputs is None else f"{shown.get('outputs_kl', 0):.1e}",
    ]


def _percent(value: object) -> str:
    return f"{value:.2%}" if isinstance(value, float) else "exact"


def _encoding(summary: Summary) -> str:
    encoding = summary.plan.encoding
    rank = "" if encoding.rank is None else f"-{encoding.rank}"
    zstd = "" if encoding.zstd is None else f"+zstd{encoding.zstd}"
    return f"{encoding.name}{rank}{zstd}"


def _plain(summary: Summary) -> dict[str, object]:
    return {
        "plan": summary.plan.model_dump(mode="json"),
        "shards": summary.shards,
        "finished": summary.finished,
        "merged": summary.merged,
        "samples": summary.samples,
        "skipped": summary.skipped,
        "tokens": summary.tokens,
        "bytes": summary.data_bytes,
        "bytes_per_token": round(summary.bytes_per_token, 2),
    }
