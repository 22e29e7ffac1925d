"""Launches of one small run, by how many processes train and how many hold teachers."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from teacher.zoo import zoo_samples

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = 12
"""Of a step, whatever the launch."""
BATCH = 2
WARM = 2
"""Steps that are not counted."""


def measure(steps: int, launches: Sequence[str]) -> None:
    """Launch one after the other and print a line each."""
    print("train + hold   step s   student waits s   MiB of each process")
    with tempfile.TemporaryDirectory(prefix="mtkd-ranks-") as folder:
        for launch in launches:
            train, hold = map(int, launch.split("x"))
            config = _write(Path(folder), launch, steps, train, hold)
            memory = _launched(config, train + hold)
            rows = [
                json.loads(line)
                for line in (config.parent / launch / "metrics.jsonl").open()
            ]
            steps_s = [row for row in rows if row["kind"] == "train"][WARM:]
            took = statistics.median(row["step_s"] for row in steps_s)
            waits = statistics.median(
                row["parts_s"].get("waiting", 0) for row in steps_s
            )
            held = ", ".join(f"{memory[rank]:.0f}" for rank in sorted(memory))
            print(f"{train} + {hold:<10} {took:>6.2f}   {waits:>15.2f}   {held}")


def _write(folder: Path, name: str, steps: int, train: int, hold: int) -> Path:
    text = folder / "text.txt"
    if not text.exists():
        samples = zoo_samples("prose", "student", 600)[:60]
        text.write_text("\n\n".join(str(sample.text) for sample in samples))
    config = {
        "run": {"name": name, "dir": str(folder)},
        "student": {"model": "zoo:student"},
        "teachers": {n: {"model": f"zoo:{n}"} for n in ("gpt2-prose", "neox-mixed")},
        "data": {"train": [str(text)], "max_length": 128, "eval_samples": 2},
        "train": {
            "steps": steps,
            "batch_size": BATCH,
            "grad_accum": SAMPLES // (BATCH * train),
            "calibration_samples": 8,
            "log_every": 1,
            "checkpoint_every": 0,
            "engine": "torch",
            "threads": 1,
            "teacher_ranks": hold,
        },
        "phases": ["dual"],
        "baselines": {"ce_only": False, "single_teachers": "none"},
        "samples": {"prompts": 0},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def _launched(config: Path, processes: int) -> dict[int, float]:
    """MiB of each process by its rank."""
    command = [sys.executable, "-m", "experiments.launcher", "--nproc-per-node"]
    command += [str(processes), "-m", "experiments.cli", "train", str(config)]
    log = config.with_suffix(".log")
    highest: dict[int, float] = {}
    with log.open("wb") as out:
        launcher = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        while launcher.poll() is None:
            with suppress(psutil.Error):
                for child in psutil.Process(launcher.pid).children():
                    rank = int(child.environ().get("RANK", -1))
                    mib = child.memory_full_info().uss / 2**20
                    highest[rank] = max(mib, highest.get(rank, 0.0))
            time.sleep(1)
    if launcher.returncode:
        raise SystemExit(log.read_text(errors="replace")[-3000:])
    return {rank: mib for rank, mib in highest.items() if rank >= 0}
