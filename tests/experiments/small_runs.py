"""Small true runs through the command: tiny models, short texts, few steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.cli import main
from experiments.config.parsing import merge

SENTENCES = (
    "The router learns from the outcome which teacher helps which word.",
    "Keys and values travel; names, depths and positions stay at home.",
    "def align(student, teacher): return overlap(student, teacher)",
    "An unbelievable café sells naïve pastries for 3.50 a piece.",
    "class Cache(dict): limit = 128  # oldest entries leave first",
)
DECODERS = ("gpt2-prose", "qwen-code", "neox-mixed")


def write_text(path: Path, documents: int = 40) -> Path:
    """Write documents that all differ."""
    lines = [
        " ".join(SENTENCES[(i * step) % 5] for step in (1, 2, 3)) + f" Number {i}.\n"
        for i in range(documents)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def small_config(
    folder: Path, zoo: Mapping[str, Path], changes: Mapping[str, Any] | None = None
) -> Path:
    """Write a config of one phase with two teachers, torch engine, two steps.

    Its student writes nothing before and after, a sixth of what such a run takes:
    tests/experiments/writing/test_samples.py has it write.
    """
    text = folder / "text.txt"
    if not text.exists():
        write_text(text)
    base = {
        "run": {"name": "run", "dir": str(folder)},
        "student": {"model": str(zoo["student"])},
        "teachers": {name: {"model": str(zoo[name])} for name in DECODERS[:2]},
        "data": {"train": [str(text)], "max_length": 32, "eval_samples": 4},
        "train": {
            "steps": 2,
            "batch_size": 4,
            "calibration_samples": 8,
            "log_every": 1,
            "engine": "torch",
        },
        "phases": ["dual"],
        "baselines": {"ce_only": False, "single_teachers": "none"},
        "samples": {"prompts": 0},
    }
    changes = {k: v for k, v in (changes or {}).items() if v != {} or k not in base}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(merge(base, changes), sort_keys=False))
    return path


def said(words: list[str], capsys: Any) -> tuple[int, str]:
    """Run ``mtkd``; the exit code and the one message it gave."""
    capsys.readouterr()
    code = main(words)
    shown = capsys.readouterr().err
    assert "Traceback" not in shown, shown
    messages = [row for row in shown.splitlines() if row.startswith("mtkd: ")]
    assert len(messages) == (code != 0), shown
    return code, (messages or [""])[0]
