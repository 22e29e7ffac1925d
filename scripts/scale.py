"""What limits a training step on many GPUs: docs/scale.md's table, and your own.

    python scripts/scale.py                         # the page's table
    python scripts/scale.py --write                 # put it into the page
    python scripts/scale.py --student HuggingFaceTB/SmolLM2-1.7B --nodes 1 16 --pass 4
    python scripts/scale.py --run runs/mine         # time of a run of one process

Operations are counted by PyTorch on models without weights, bytes by what travels. What
a machine gives, it is told (``--tflops`` and so on; the defaults are of data sheets,
but for one guess, the share of the peak that is reached). ``--run`` puts a step that
was measured in place of both. No contention, stragglers or failures: a
bound from below.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scale.md"
BEGIN = "<!-- begin: python scripts/scale.py --write -->"
END = "<!-- end -->"
FLOAT32, BFLOAT16, INT8 = 4, 2, 1
MOMENTS = 28
"""Bytes that AdamW moves a parameter: weight, gradient and two moments of float32 read,
weight and moments written."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What one GPU, its node and the cluster give; GB are 10^9 bytes."""

    tflops: float = 989.0
    """Of one GPU in bfloat16: H100 SXM, NVIDIA's data sheet, without sparsity."""
    share: float = 0.4
    """Of that which is reached: a guess until ``--run`` replaces it."""
    memory: float = 3350.0
    """GB/s of a GPU's memory: H100 SXM, the same data sheet."""
    link: float = 450.0
    """GB/s one way between GPUs of a node: NVLink 4, 900 both ways."""
    network: float = 50.0
    """GB/s one way between nodes, for each GPU: 400 Gbit/s each."""
    store: float = 100.0
    """GB/s that the file system gives to all nodes together."""
    answers: float = 2.0
    """GB/s of answers to one process from a rank that holds teachers, through the
    processors' memory and TCP: 1.9 was measured on loopback of two slow cores."""
    gpus: int = 8
    """Of a node."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A step's work on one GPU."""

    tokens: int
    """Of the student, of one pass."""
    passes: int
    """Of a step."""
    student: float
    """FLOPs a token, forward and backward."""
    teacher: float
    """FLOPs a token, forward."""
    parameters: int
    """Of the student, all trained, float32."""
    stored: int
    """Bytes of a teacher's keys and values a token, at one byte a number."""
    teacher_bytes: int
    """Of its weights in bfloat16."""
    measured: float | None = None
    """Seconds of a step of one process, in place of FLOPs."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the step is divided."""

    name: str
    zero: int = 1
    teacher: str = "live"
    """``live``, ``sharded``, ``store``, or ``ranks``: half of the GPUs hold it."""
    encoding: int = BFLOAT16
    """Bytes a number in the store."""


SETTINGS = (
    Setting(name="teacher live, ZeRO 1"),
    Setting(name="teacher live, ZeRO 2", zero=2),
    Setting(name="teacher live, ZeRO 3", zero=3),
    Setting(name="teacher sharded, ZeRO 1", teacher="sharded"),
    Setting(name="teacher on half the ranks, ZeRO 1", teacher="ranks"),
    Setting(name="store in bfloat16, ZeRO 1", teacher="store"),
    Setting(name="store in int8, ZeRO 1", teacher="store", encoding=INT8),
)


def counted(name: str, tokens: int, learns: bool) -> tuple[float, int, int]:
    """Count one text's operations on a model without weights.

    Args:
        name: a folder, a hub name that is here, or one whose sizes are published.
        tokens: of the text.
        learns: whether the backward pass counts, too.

    Returns:
        FLOPs a token; parameters; numbers of keys and values a token.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from experiments.estimate.shapes import planned_model
    from teacher.loading.fresh import fresh_model

    plan = planned_model(name)
    with torch.device("meta"):
        asked = {"attn_implementation": "eager"}  # whose products are counted
        model = fresh_model(plan.config, 0, torch.float32, False, **asked)
        ids = torch.zeros((1, tokens), dtype=torch.int64)
        mask = torch.zeros((1, 1, tokens, tokens))  # none is made from numbers then
    with FlopCounterMode(display=False) as counter:
        logits = model(ids, attention_mask=mask, use_cache=False).logits
        if learns:
            logits.sum().backward()
    sizes = plan.sizes
    kept = sizes.layers * sizes.heads * (sizes.k_dim + sizes.v_dim)
    parameters = sum(p.numel() for p in model.parameters())
    return counter.get_total_flops() / tokens, parameters, kept


def gathered(size: float, nodes: int, machine: Machine) -> float:
    """Seconds in which every GPU gets ``size`` bytes of which all hold parts, or sends
    as much to be summed; the slower one of the links in a node and between nodes.

    Between nodes each byte goes once a node, over all its cards, as NCCL does it.
    """
    gpus = machine.gpus
    world = nodes * gpus
    within = size * (world - 1) / world / (machine.link * 1e9)
    between = size * (nodes - 1) / nodes / gpus / (machine.network * 1e9)
    return max(within, between)


def parts(
    work: Work, setting: Setting, nodes: int, machine: Machine
) -> dict[str, float]:
    """Seconds of a step's parts on one GPU."""
    speed = machine.tflops * machine.share * 1e12
    tokens, world = work.tokens * work.passes, nodes * machine.gpus
    seconds = {
        "student": tokens * work.student / speed,
        "teacher": tokens * work.teacher / speed,
    }
    if work.measured is not None:
        seconds = {"student and teacher": work.measured}
    if setting.teacher == "store":
        seconds.pop("teacher", None)
        size = work.stored * setting.encoding * tokens * world
        seconds["store"] = size / (machine.store * 1e9)
    if setting.teacher == "ranks":
        world, nodes, machine = trained_on(setting, nodes, machine)
        seconds["answers"] = work.stored * BFLOAT16 * tokens / (machine.answers * 1e9)
        longer = seconds["teacher"] - seconds["student"]
        seconds["teacher"] = max(longer, 0.0)  # the rest runs beside
    whole = gathered(work.parameters * FLOAT32, nodes, machine)
    seconds["gradients"] = {
        1: 2 * whole,  # summed, and the new weights sent round
        2: (work.passes + 1) * whole,  # summed after every pass
        3: 3 * work.passes * whole,  # weights there and back, gradients
    }[setting.zero]
    if setting.teacher == "sharded":
        once = gathered(work.teacher_bytes, nodes, machine)
        seconds["teacher's weights"] = work.passes * once
    moved = MOMENTS * work.parameters / world
    seconds["optimiser"] = moved / (machine.memory * 1e9)
    return seconds


def trained_on(
    setting: Setting, nodes: int, machine: Machine
) -> tuple[int, int, Machine]:
    """GPUs that train, their nodes, and the machine as these see it."""
    if setting.teacher != "ranks":
        return nodes * machine.gpus, nodes, machine
    if nodes > 1:
        return nodes // 2 * machine.gpus, nodes // 2, machine
    return machine.gpus // 2, 1, replace(machine, gpus=machine.gpus // 2)


COMPUTING = ("student", "teacher", "student and teacher", "optimiser")


def row(work: Work, setting: Setting, nodes: int, machine: Machine) -> list[str]:
    """A line of the table."""
    seconds = parts(work, setting, nodes, machine)
    computing = sum(s for name, s in seconds.items() if name in COMPUTING)
    others = {name: s for name, s in seconds.items() if name not in COMPUTING}
    hidden, apart = max(computing, *others.values()), computing + sum(others.values())
    longest = max(others, key=lambda name: others[name])
    limit = "computing" if hidden == computing else longest
    tokens = work.tokens * work.passes * trained_on(setting, nodes, machine)[0]
    network = sum(others.get(x, 0) for x in ("gradients", _WEIGHTS, "answers"))
    return [
        setting.name,
        f"{nodes} x {machine.gpus}",
        f"{1e3 * computing:,.0f}",
        f"{1e3 * others.get('store', 0):,.0f}",
        f"{1e3 * network:,.0f}",
        f"{1e3 * hidden:,.0f} to {1e3 * apart:,.0f}",
        f"{tokens / apart / 1e6:,.2f} to {tokens / hidden / 1e6:,.2f}",
        limit,
    ]


_WEIGHTS = "teacher's weights"
_HEAD = (
    *("setting", "nodes x GPUs", "computing ms", "store ms", "network ms", "step ms"),
    *("million tokens/s", "limit"),
)


def table(work: Work, nodes: Iterable[int], machine: Machine) -> str:
    """The table in Markdown."""
    settings = [
        setting
        for setting in SETTINGS  # what was measured had a live teacher
        if work.measured is None or setting.teacher in ("live", "sharded")
    ]
    rows = [row(work, s, n, machine) for s in settings for n in nodes]
    lines = [_HEAD, ["---"] * len(_HEAD), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def measured_step(run: Path) -> tuple[float, int]:
    """Median seconds of a step, and tokens of one, of a run of one process.

    Raises:
        SystemExit: it had several, or logged no step.
    """
    lines = [json.loads(x) for x in (run / "metrics.jsonl").open(encoding="utf-8")]
    train = [x for x in lines if x["kind"] == "train" and x["arm"] == "main"]
    starts = [json.loads(x) for x in (run / "attempts.jsonl").open(encoding="utf-8")]
    worlds = {x["world_size"] for x in starts if x["event"] == "start"}
    if worlds != {1} or not train:
        raise SystemExit(
            f"{run}: {len(train)} logged steps of {worlds} processes; give a run of "
            "one process that has logged steps"
        )
    steps = [x["step_s"] for x in train]
    tokens = [x["tokens_per_s"] * x["step_s"] for x in train]
    return statistics.median(steps), round(statistics.median(tokens))


def aligned_share(run: Path) -> float:
    """What alignment takes of the logged steps of a run, by their median."""
    lines = [json.loads(x) for x in (run / "metrics.jsonl").open(encoding="utf-8")]
    train = [x for x in lines if x["kind"] == "train" and x["arm"] == "main"]
    shares = [x["parts_s"].get("align", 0.0) / x["step_s"] for x in train]
    return statistics.median(shares)


def work_of(options: argparse.Namespace) -> Work:
    """Count the models; or take the step of a run."""
    student, parameters, _ = counted(options.student, options.tokens, True)
    teacher, weights, stored = counted(options.teacher, options.tokens, False)
    if options.checkpointing:
        student *= 4 / 3  # the forward pass once more, a third of both
    work: dict[str, Any] = {
        "tokens": options.tokens * options.texts,
        "passes": options.passes,
    }
    if options.run is not None:
        seconds, tokens = measured_step(options.run)
        work = {"tokens": tokens, "passes": 1, "measured": seconds}
    return Work(
        student=student,
        teacher=teacher,
        parameters=parameters,
        stored=stored,
        teacher_bytes=weights * BFLOAT16,
        **work,
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", default="Qwen/Qwen2.5-1.5B")
    parser.add_argument("--teacher", default="Qwen/Qwen2.5-7B")
    parser.add_argument("--tokens", type=int, default=1024, help="of a text")
    parser.add_argument("--texts", type=int, default=2, help="of a pass on one GPU")
    parser.add_argument("--passes", type=int, default=4, help="of a step")
    parser.add_argument("--checkpointing", type=int, default=1, help="0: none")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--run", type=Path, help="take the step of this run")
    parser.add_argument("--write", action="store_true", help="write docs/scale.md")
    machine = Machine()
    for name, value in vars(machine).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Count, and print the table or put it into the page."""
    options = arguments().parse_args(words)
    machine = Machine(**{name: getattr(options, name) for name in vars(Machine())})
    made = table(work_of(options), options.nodes, machine)
    if options.run is not None:
        share = aligned_share(options.run)
        print(f"aligning took {share:.1%} of a step of {options.run}\n")
    if not options.write:
        print(made)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # published sizes are enough
    main()
