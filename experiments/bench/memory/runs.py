"""One training in a process of its own, and what it held at its highest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.parsing import merge
from experiments.config.tree import Config, load_config

VOCABULARY, TOKENS, BATCH, STEPS = 151_936, 512, 2, 2
STUDENT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
TEACHER = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
LAYERS, KV_HEADS = 8, 2

CASES: Mapping[str, Mapping[str, Any]] = {
    "int4, updates": {
        "student": {"quantise": "int4", "lora": {"rank": 16}},
        "train": {"optimizer": "adamw_8bit"},
    },
    "int4, checkpointing": {
        "student": {"quantise": "int4", "lora": {"rank": 16}},
        "train": {"optimizer": "adamw_8bit", "gradient_checkpointing": True},
    },
    "whole": {"student": {}},
}
"""What differs between the students, by name."""


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes."""

    planned: int
    measured: int


def prepare_models(folder: Path) -> Path:
    """Write a teacher of random weights, a student's config, and a text."""
    import argparse as long_module
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from teacher.zoo import build_zoo

    tokenizer = build_zoo(["student"], scale="tiny", progress=False)["student"]
    for name, sizes in (("student", STUDENT), ("teacher", TEACHER)):
        more: dict[str, Any] = dict(sizes)
        config = Qwen2Config(
            vocab_size=VOCABULARY,
            num_hidden_layers=LAYERS,
            num_key_value_heads=KV_HEADS,
            tie_word_embeddings=True,
            architectures=["Qwen2ForCausalLM"],
            **more,
        )
        (folder / name).mkdir()
        for file in tokenizer.glob("tokenizer*.json"):
            shutil.copy(file, folder / name)
        if name == "student":
            config.save_pretrained(folder / name)
        else:
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
    assert long_module.__file__ is not None
    words = Path(long_module.__file__).read_text(encoding="utf-8").split()
    (folder / "text.txt").write_text(" ".join(words), encoding="utf-8")
    return folder


def run_alone(folder: Path, case: str) -> Run:
    """Plan one case here and train it in a fresh process."""
    from experiments.estimate.counted import memory_plan

    planned = sum(
        line.size for line in memory_plan(config_of(folder, case), device="cpu")
    )
    environment = {
        **os.environ,
        # Everything from 64 KiB is given back when it is freed.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, "-m", __name__, str(folder), case]
    done = subprocess.run(
        words,
        env=environment,
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Run(planned, json.loads(done.stdout.splitlines()[-1]))


def config_of(folder: Path, case: str) -> Config:
    """The case's config."""
    base = {
        "run": {"name": "run", "dir": str(folder)},
        "student": {"model": str(folder / "student"), "init": "fresh"},
        "teachers": {"teacher": {"model": str(folder / "teacher"), "quantise": "int8"}},
        "data": {"train": [str(folder / "text.txt")], "max_length": TOKENS},
        "train": {
            "steps": STEPS,
            "batch_size": BATCH,
            "calibration_samples": BATCH,
            "engine": "torch",
            "prefetch": False,
            "threads": 1,
        },
        "phases": ["multi_basic"],
        "phase": {"all": {"teachers": {"min": 1}}},
        "output": {"kd": 1.0},
    }
    return load_config(merge(base, CASES[case]))


def _train(folder: Path, case: str) -> int:
    """Bytes that training held beyond a process that had trained something small."""
    import ctypes

    from align.support.process_memory import highest, resident
    from experiments.estimate.measured import assembled
    from experiments.estimate.trial import Trial
    from experiments.extraction.context import open_extraction
    from student.loop.engine import Engine
    from student.loop.trainer import Job, train_phase

    def steps(config: Config) -> int:
        extraction = open_extraction(config)
        phase = extraction.stages[0].phase
        lesson = assembled(Trial.of_extraction(extraction), 0)
        for name in extraction.teachers:  # its file is the kernel's to forget
            for parameter in extraction.models.live[name].loaded.model.parameters():
                parameter.data = parameter.data.clone()
        job = Job(
            samples=extraction.corpus.longest,
            encode=extraction.models.encode,
            views=lesson.teachers.panel if lesson.teachers else None,
            steps=STEPS,
            seed=0,
        )
        engine = Engine(phase.train)
        ctypes.CDLL(None).malloc_trim(0)
        resident()  # the peak counts from here
        train_phase(lesson.distiller, engine, job, phase.train)
        engine.close()
        return highest()

    steps(load_config(_small(folder, case)))
    ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    return steps(config_of(folder, case)) - before


def _small(folder: Path, case: str) -> dict[str, Any]:
    """The case with tiny models, which loads all the libraries that it needs."""
    from experiments.config.parsing import plain
    from teacher.zoo import build_zoo

    zoo = build_zoo(["student"], scale="tiny", progress=False)["student"]
    small = {"model": str(zoo)}
    tiny = {"student": small, "teachers": {"teacher": small}}
    return merge(
        plain(config_of(folder, case)), merge(tiny, {"data": {"max_length": 32}})
    )


if __name__ == "__main__":
    print(_train(Path(sys.argv[1]), sys.argv[2]))
