"""Train a student from several teachers' keys and values: ``mtkd train`` as a script.

python experiments/train_multi_teacher_kv.py quickstart train.steps=20 --bf16
"""

from __future__ import annotations

import sys
from pathlib import Path

FLAGS = {
    "--gradient_checkpointing": "train.gradient_checkpointing=true",
    "--bf16": "train.bf16=true",
    "--fp16": "train.fp16=true",
}
"""Switches that stand for a setting."""


def main(arguments: list[str] | None = None) -> int:
    """Run ``mtkd train`` with these arguments."""
    given = sys.argv[1:] if arguments is None else arguments
    from experiments.cli import main as mtkd

    return mtkd(["train", *(FLAGS.get(argument, argument) for argument in given)])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
