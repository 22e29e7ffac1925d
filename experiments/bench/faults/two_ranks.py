"""A short run of two processes on this machine, and what two such runs must share."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
TEACHERS = ("gpt2-prose", "qwen-code", "neox-mixed", "bert-mixed", "t5-mixed")
IMPORTED = (
    "accelerate",
    "deepspeed",
    "deepspeed.runtime.zero.muon.original_muon",
    "experiments.run.driver",
    "experiments.report.page",
    "matplotlib.backends.backend_agg",
    "torch.utils.tensorboard.writer",
)
TIMING = ("time", "tokens_per_s", "step_s", "parts_s", "memory_gib")
"""Fields of a metrics line that differ between equal runs."""


def write_config(
    folder: Path, models: Path, phases: Sequence[str], steps: int, **train: Any
) -> Path:
    """Write a config of tiny models, few texts, no baselines.

    Args:
        folder: takes the config and, as ``run``, the run.
        models: a folder of tiny models by name.
        phases: their names.
        steps: optimiser steps of each.
        train: further settings of every phase's loop.
    """
    import yaml

    text = folder / "text.txt"
    if not text.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text.write_text("\n".join(_document(i) for i in range(48)), encoding="utf-8")
    loop = {"steps": steps, "batch_size": 2, "calibration_samples": 4, "log_every": 1}
    config = {
        "run": {"name": "run", "dir": str(folder)},
        "student": {"model": str(models / "student")},
        "teachers": {name: {"model": str(models / name)} for name in TEACHERS},
        "data": {"train": [str(text)], "max_length": 24, "eval_samples": 2},
        "phases": list(phases),
        "phase": {"all": {"train": {**loop, "checkpoint_every": 1, **train}}},
        "baselines": {"ce_only": False, "single_teachers": "none"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def _document(number: int) -> str:
    words = ("the router", "learns", "which teacher", "helps", "which word", "today")
    turned = " ".join(words[number % 6 :] + words[: number % 6])
    return f"{turned}, says text {number}.\n\ndef f_{number}(x): return x\n"


def launch(
    config: Path,
    *words: str,
    log: Path,
) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own.

    Args:
        config: see :func:`write_config`.
        words: go between the module and ``train``: faults of ``_inject``.
        log: takes what they print.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD"))}
    env |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **marks(config),
    }
    command = [
        *(sys.executable, "-m", "experiments.launcher", "--nproc-per-node=2", "-m"),
        *("experiments.cli", *words, "train", str(config)),
    ]
    with log.open("ab") as out:
        return subprocess.Popen(
            command, env=env, stdout=out, stderr=out, cwd=ROOT, start_new_session=True
        )


def marks(config: Path) -> dict[str, str]:
    """Environment of a run's processes: where faults are remembered, by which
    :func:`pids_of` knows them."""
    memory = config.parent / "faults"
    memory.mkdir(exist_ok=True)
    return {"MTKD_FAULTS": str(memory)}


def import_all(models: Path) -> None:
    """Import what every launch needs, model classes included; this starts no thread.

    Args:
        models: a folder of tiny models by name.
    """
    from teacher.loading.models import load_model

    for module in IMPORTED:
        importlib.import_module(module)
    # DeepSpeed looks with a compiler for what it can build when first asked
    _ = sys.modules["deepspeed"].ops.__compatible_ops__
    for name in ("student", *TEACHERS):
        load_model(str(models / name))


def fork(config: Path, log: Path) -> BaseProcess:
    """As :func:`launch`, from this interpreter: what it has imported need not be again.

    The launcher is torchrun's own agent, leading a session that holds its processes.
    """
    process = multiprocessing.get_context("fork").Process(
        target=_agent, args=(config, log)
    )
    process.start()
    return process


def _agent(config: Path, log: Path) -> None:
    os.setsid()
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    lead(["train", str(config)])


def lead(words: Sequence[str]) -> None:
    """Be the launcher of two processes that are forked off this one.

    Args:
        words: of ``mtkd``, after faults; see :mod:`experiments.bench.faults.inject`.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from student.loop.meeting import BACKEND, register

    register()
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend=BACKEND,
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(settings, _rank)(list(words))


def _rank(words: list[str]) -> None:
    from experiments.bench.faults.inject import main

    sys.exit(main(words))


def bury(folder: Path, seconds: float = 300, leader: int | None = None) -> None:
    """Wait for processes of a run that outlived their launcher.

    Args:
        folder: of the run's config, as in :func:`launch`.
        seconds: how long.
        leader: process of :func:`fork`; None where there is none (the kernel's own
            threads are in session 0).

    Raises:
        TimeoutError: they do not notice that it died.
    """
    end = time.monotonic() + seconds
    while left := pids_of(folder, leader):
        if time.monotonic() > end:
            raise TimeoutError(f"processes {left} outlived their launcher")
        time.sleep(0.2)


def pids_of(folder: Path, leader: int | None = None) -> list[int]:
    """The processes of a run that live, its launcher among them; as :func:`bury`."""
    every = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in every if _belongs(pid, folder, leader)]


def _belongs(pid: int, folder: Path, leader: int | None) -> bool:
    """Whether a process runs with this folder's mark, or in the leader's session."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    state, session = stat[0], int(stat[3])
    marked = f"MTKD_FAULTS={folder / 'faults'}".encode() in environment
    return state != "Z" and (marked or session == leader)


def weights(run: Path) -> dict[str, str]:
    """Digest of every student that a run left."""
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run.rglob("student/model.safetensors"))
    }


def metrics(run: Path) -> list[dict[str, Any]]:
    """What a run logged, but for times and for checkpoints, which depend on kills."""
    rows = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(row) for row in rows]
    return [
        {name: value for name, value in line.items() if name not in TIMING}
        for line in lines
        if line["kind"] != "checkpoint"
    ]


def finished(run: Path) -> bool:
    """Whether the run came to its end."""
    try:
        return bool(json.loads((run / "state.json").read_text())["finished"])
    except (OSError, ValueError):
        return False
