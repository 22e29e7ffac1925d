"""Small true runs and stores that are damaged, and the commands that read them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.bench.faults import two_ranks as two
from experiments.bench.faults.apart import run_apart
from experiments.bench.faults.harms import restore

TEACHERS = ("gpt2-prose", "qwen-code")
PHASES = ("dual", "routing")
RUN_CLASSES = {
    "config of a run": ("run/config.yaml",),
    "what a run keeps": ("run/run.json", "run/state.json", "run/texts.json"),
    "launches": ("run/attempts.jsonl",),
    "sums of a log": ("run/*.sums",),
    "lease": ("run/lease.json", "run/.lock"),
    "metrics": ("run/metrics.jsonl",),
    "summary": ("run/summary.json",),
    "settings of a phase": ("run/**/*.settings.json",),
    "marker of a phase": (
        "run/phases/*/complete.json",
        "run/baselines/*/*/complete.json",
    ),
    "marker of a checkpoint": ("run/**/step-*/complete.json",),
    "weights and moments": ("run/**/step-*/state-*.safetensors",),
    "random state": ("run/**/step-*/random-*.safetensors",),
    "student: weights": ("run/**/student/model.safetensors",),
    "student: config": ("run/**/student/*config.json",),
    "student: tokenizer": ("run/**/student/tokenizer.json",),
    "answers": ("run/answers-*/*",),
    "pages, TensorBoard": ("run/report.*", "run/tensorboard/**/*"),
    "models given": ("models/*/*",),
    "text given": ("text.txt",),
}
STORE_CLASSES = {
    "plan": ("kv/kv/*/plan.json",),
    "record of a shard": ("kv/kv/*/kv-*.json",),
    "data of a shard": ("kv/kv/*/kv-*.safetensors",),
    "constants": ("kv/kv/*/constants*",),
    "manifest": ("kv/kv/*/manifest.json",),
    "config of a store": ("kv/kv/config.yaml",),
    "tokenizers of a store": ("kv/kv/tokenizers/*/*",),
}
"""By class the files, as patterns; a file belongs to the first that fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A command that reads a subject."""

    name: str
    words: tuple[str, ...]
    observe: Callable[[Path, str], dict[str, str]]
    """Of the place and what was printed: all that must stay the same. A file goes
    by its path in the place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """Files that belong together, as they were written."""

    name: str
    make: Callable[[Path], None]
    """Fills the place."""
    classes: Mapping[str, Sequence[str]]
    readers: Sequence[Reader]

    def files(self, whole: Path) -> dict[str, list[Path]]:
        """By class the files that are there, each in one class."""
        taken: set[Path] = set()
        files = {}
        for name, patterns in self.classes.items():
            every = {f for p in patterns for f in whole.glob(p) if f.is_file()} - taken
            taken |= every
            if every:
                files[name] = sorted(every)
        return files


def subjects(place: Path, models: Path, only: str = "") -> list[Subject]:
    """What is damaged: a run that was killed, one that is finished, and a store.

    Args:
        place: where each of them lies while it is read; paths in files name it.
        models: a folder of tiny models by name, of which they get copies.
        only: those whose name holds this.
    """
    store, look = str(place / "kv" / "kv"), lookers(place)
    train = Reader(
        name="train", words=("train", str(place / "config.yaml")), observe=_trained
    )
    stored = [
        Reader(name="info", words=("store", "info", store), observe=_printed),
        Reader(name="verify", words=("store", "verify", store), observe=_printed),
        Reader(name="merge", words=("store", "merge", store), observe=_stored),
        Reader(name="repair", words=("store", "repair", store), observe=_stored),
        Reader(
            name="extract",
            words=("extract", str(place / "config.yaml")),
            observe=_stored,
        ),
        Reader(
            name="train from it",
            words=("train", str(place / "config.yaml"), "store.read=true"),
            observe=_trained,
        ),
    ]

    def subject(
        name: str,
        make: Callable[[Path], None],
        classes: Mapping[str, Sequence[str]],
        readers: Sequence[Reader],
    ) -> Subject:
        filled = partial(_with_models, models, make)
        return Subject(name=name, make=filled, classes=classes, readers=readers)

    every = [
        subject("killed run", _kill, RUN_CLASSES, [train, *look]),
        subject("whole run", _finish, RUN_CLASSES, [train, *look]),
        subject("store", _extract, STORE_CLASSES, stored),
    ]
    return [each for each in every if only in each.name]


def lookers(place: Path) -> list[Reader]:
    """Commands that look at the run in a place."""
    run = str(place / "run")
    return [
        Reader(name="status", words=("status", run, "--json"), observe=_printed),
        Reader(name="report", words=("report", run, "--no-figures"), observe=_reported),
        Reader(name="eval", words=("eval", run, "--json"), observe=_printed),
        Reader(
            name="generate",
            words=(
                *("generate", run, "--prompt", "The router", "--all-phases"),
                *("--baselines", "--max-new-tokens", "4", "--json"),
            ),
            observe=_printed,
        ),
    ]


def _with_models(models: Path, make: Callable[[Path], None], place: Path) -> None:
    for name in ("student", *TEACHERS):
        shutil.copytree(models / name, place / "models" / name)
    make(place)


def make_whole(subject: Subject, whole: Path, place: Path) -> None:
    """Make a subject's files once.

    Args:
        subject: whose.
        whole: where they are kept; what is there already stays.
        place: where they are made.
    """
    if whole.is_dir():
        return
    shutil.rmtree(place, ignore_errors=True)
    subject.make(place)
    part = whole.with_name(f"{whole.name}.part")
    restore(place, part)
    part.rename(whole)


def command(words: Sequence[str]) -> int:
    """Run ``mtkd`` without pictures, which are most of what a small run takes."""
    from experiments.cli import main
    from experiments.report import alignment, figures

    figures.draw_run = lambda run, folder=None: []  # type: ignore[assignment]
    alignment.draw_what_meets = lambda run: None  # type: ignore[assignment]
    return main(list(words))


def _config(place: Path, **train: Any) -> Path:
    import yaml

    path = two.write_config(place, place / "models", PHASES, 3, **train)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["teachers"] = {n: config["teachers"][n] for n in TEACHERS}
    config["baselines"]["ce_only"] = True
    config["answers"] = {"memory_gib": 0.0}
    config["store"] = {"dir": str(place / "kv"), "name": "kv", "shard_samples": 8}
    config["store"]["encoding"] = "int8"
    config["phase"]["all"]["train"]["engine"] = "torch"
    config["phase"]["all"]["loss"] = {"gamma_kl": 0, "outcome_every": 2}
    config["phase"]["routing"] = {"teachers": {"min": 2}}
    config["samples"] = {"prompts": 1, "max_new_tokens": 4}
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def _finish(place: Path) -> None:
    words = ["train", str(_config(place))]
    _must(lambda: command(words), place, 0)


def _kill(place: Path) -> None:
    """A run that was killed in its second phase, with two checkpoints, before the last
    step of its own arm."""
    from experiments.bench.faults.inject import Fault, arm

    words = ["train", str(_config(place))]

    def killed() -> int:
        # Steps of the run's own arm and CE only in the first phase, then in the second.
        arm(Fault("kill", "step", at=3 + 3 + 3), place.with_name("killed"))
        return command(words)

    place.with_name("killed").unlink(missing_ok=True)
    _must(killed, place, -9)


def _extract(place: Path) -> None:
    words = ["extract", str(_config(place))]
    _must(lambda: command(words), place, 0)


def _must(action: Callable[[], int], place: Path, code: int) -> None:
    ending = run_apart(action, place.parent)
    if ending.code != code:
        raise RuntimeError(f"ended with {ending.code}, not {code}: {ending.err}")


def _printed(place: Path, printed: str) -> dict[str, str]:
    return {"printed": printed}


def _reported(place: Path, printed: str) -> dict[str, str]:
    names = ("report.md", "report.html")
    return {name: _read(place / "run" / name) for name in names}


def _trained(place: Path, printed: str) -> dict[str, str]:
    """Every student, every line of the metrics and the summary, without times."""
    run = place / "run"
    result = {
        str(file.relative_to(place)): _digest(file)
        for file in sorted(run.rglob("student/*"))
    }
    try:
        result["metrics"] = "\n".join(map(json.dumps, two.metrics(run)))
        summary = json.loads(_read(run / "summary.json"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return result | {"unreadable": str(error)}
    once = ("time_s", "versions", "mtkd_sha256")
    worth = {k: v for k, v in summary.items() if k not in once}
    return result | {f"summary {k}": json.dumps(v) for k, v in worth.items()}


def _stored(place: Path, printed: str) -> dict[str, str]:
    kv = place / "kv"
    return {
        str(file.relative_to(place)): _digest(file)
        for file in sorted(kv.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return os.strerror(error.errno or 0)


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        return os.strerror(error.errno or 0)
