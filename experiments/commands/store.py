"""What ``mtkd estimate``, ``mtkd extract`` and ``mtkd store`` do."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from align.errors import InputError, MissingFileError
from experiments.commands.train import STOPPED, config_of, print_table

if TYPE_CHECKING:
    from experiments.config.tree import Config
    from experiments.extraction.run import Outcome
    from teacher.store.upkeep import Summary

DAMAGED = 2
"""Exit code of ``store verify`` where something is wrong."""


def estimate(options: Namespace) -> int:
    """Say what extraction and training need."""
    from experiments.assemble.text_sources import source_warnings, tell
    from experiments.estimate.needs import estimate as measure
    from experiments.estimate.needs import gib, rows_of, said_of
    from experiments.record.progress import waiting

    config = config_of(options)
    if options.plan:
        return _plan(config, options)
    tell(source_warnings(config))
    with waiting("loading models, reading texts and measuring a step"):
        found = measure(config, options.processes, every=options.every_text)
    if options.json:
        print(json.dumps(found.plain(), indent=1))
        return 0
    rows, run = rows_of(found), found.training
    counted = f"{len(run.arms)} arms" if len(run.arms) > 1 else "1 arm"
    title = f"training: {counted}, steps as {run.machine} takes them"
    heads = ["arm", "phases", "steps", "s/step", "time"]
    print_table(title, heads, rows["arms"], 1)
    print("\n".join(said_of(run)) + "\n")
    heads = ["store", "tokens", "bytes/token", "disk", "hours", "break-even"]
    title = f"stores {config.store_dir}: {found.samples:,} texts, {config.store.form}"
    print_table(f"{title}, {config.store.encoding}", heads, rows["stores"], 1)
    print(
        f"in all {gib(found.disk)} of {gib(found.free)} free; reading beats computing "
        "again from the break-even bandwidth on\n"
    )
    there = gib(found.device_memory)
    title = f"memory of one training process, products in {found.products}"
    print_table(f"{title} ({there} there)", ["for", "size"], rows["memory"], 1)
    for warning in found.warnings:
        print(f"warning: {warning}")
    return 0


def _plan(config: Config, options: Namespace) -> int:
    from dataclasses import asdict

    from experiments.estimate.counted import memory_plan, planned_arms
    from experiments.estimate.needs import gib

    lines = memory_plan(config, options.processes)
    arms = planned_arms(config)
    total = sum(line.size for line in lines)
    if options.json:
        found = [asdict(line) for line in lines]
        print(json.dumps({"lines": found, "in_all": total, "arms": arms}, indent=1))
        return 0
    rows = [[line.of, line.what, gib(line.size)] for line in lines]
    rows.append(["", "in all", gib(total)])
    print_table("memory of one training process", ["of", "what", "size"], rows, 2)
    print(
        "not counted: the CUDA context, libraries, and what an allocator leaves unused"
    )
    print(f"arms that train one after another: {', '.join(arms)}")
    return 0


def extract(options: Namespace) -> int:
    """Store a config's teachers."""
    share = _share(options.shard)
    return _extract(config_of(options), share)


def info(options: Namespace) -> int:
    """Say what stores hold."""
    from teacher.store.upkeep import stores_in, summarize

    found = {path.name: summarize(path) for path in stores_in(Path(options.path))}
    if options.json:
        print(json.dumps({n: _plain(s) for n, s in found.items()}, indent=1))
        return 0
    rows = [[name, *_row(summary)] for name, summary in found.items()]
    heads = ["store", "form", "encoding", "shards", "texts", "tokens", "MiB"]
    heads += ["bytes/token", "error K", "error V", "attention KL"]
    print_table(f"stores in {options.path}", heads, rows, numbers_from=3)
    for name, summary in found.items():
        if summary.skipped:
            print(f"{name}: {summary.skipped} texts were skipped as not finite")
        if not summary.merged:
            print(f"{name}: not finished; `mtkd extract` makes what is missing")
    return 0


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
            print(f"{path.name}{shard}: {fault.what}")
        if not faults:
            print(f"{path}: whole")
    if wrong:
        print(f"{wrong} faults; `mtkd store repair {options.path}` makes them good")
    return DAMAGED if wrong else 0


def merge(options: Namespace) -> int:
    """Write manifests."""
    from teacher.store.upkeep import merge as write_manifest
    from teacher.store.upkeep import stores_in

    for path in stores_in(Path(options.path)):
        manifest = write_manifest(path)
        print(f"{path}: {manifest.samples} texts in {len(manifest.data)} shards")
    return 0


def repair(options: Namespace) -> int:
    """Take out what is damaged and extract it again."""
    from experiments.config.tree import load_config
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
    for path in stores_in(root):
        broken = take_out(path, faults_of(path))
        if broken:
            print(f"{path}: took out shards {shard_ranges(broken)}")
    if options.take_out_only:
        return 0
    assert saved is not None
    return _extract(load_config(saved), (1, 1))


def _config_in(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


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
        print(f"warning: skipped {line}", file=sys.stderr)
    said = [f"{outcome.made} shards made", f"{outcome.kept} there already"]
    if outcome.elsewhere:
        said.append(f"{outcome.elsewhere} left to other tasks")
    print(f"{config.store_dir}: {', '.join(said)}")
    for name, missing in outcome.unfinished.items():
        print(f"{name}: still lacks shards {missing}")
    if outcome.stopped:
        print("stopped as asked; the same command goes on from there")
    elif not outcome.unfinished:
        print(f"whole: train with store.read=true (store.name={config.store_dir.name})")


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(
            f"--shard is {text!r}; give I/N with 1 <= I <= N, such as 1/8 to 8/8"
        )
    return int(match[1]), int(match[2])


def _row(summary: Summary) -> list[str]:
    plan = summary.plan
    errors = plan.facts.get("errors")
    shown = errors if isinstance(errors, dict) else {}
    kl = shown.get("attention_kl")
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
