"""Measure the students that a run has left, without running it again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.text import TextSample
from experiments.config import load_config
from experiments.data import Encoder, load_data
from experiments.progress import Progress
from experiments.text_sources import check_sources, tell_sources
from student.evaluate import Encode, bits_per_char

BATCH = 16
"""Texts per forward pass."""


def measure_run(
    run: Path, data: Sequence[str] | None = None, progress: bool = True
) -> dict[str, dict[str, float]]:
    """Measure every phase's student, and the last student of every baseline.

    Args:
        run: the run's folder, with its config.yaml.
        data: held-out text in place of the run's own, ``domain=path`` or paths.
        progress: show how far it is.

    Returns:
        Bits per character by domain, by the student's place in the run.

    Raises:
        ValueError: no run, no student, or no text.
    """
    import torch

    from teacher.capture import KVCapture
    from teacher.models import load_model

    folders = students_of(run)
    config = load_config(run / "config.yaml")
    section = config.data if data is None else replace(config.data, eval=list(data))
    check_sources(section)
    tell_sources(replace(config, data=section))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shown = Progress(progress)
    results: dict[str, dict[str, float]] = {}
    samples: list[TextSample] = []
    for name, folder in folders.items():
        loaded = load_model(str(folder), role="student")
        encode = Encoder(loaded.tokenizer, section.max_length)
        # all students of a run share one tokenizer, hence one cut of the text
        samples = samples or load_data(section, encode, config.run.seed).eval
        model: Any = loaded.model
        model.to(device).eval()
        batches = math.ceil(len(samples) / BATCH)
        results[name] = bits_per_char(
            KVCapture(model),
            _on(device, encode),
            samples,
            BATCH,
            partial(shown.over, title=f"measuring {name}", total=batches),
        )
    return results


def _on(device: Any, encode: Encoder) -> Encode:
    return lambda texts: encode(texts).to(device)


def students_of(run: Path) -> dict[str, Path]:
    """Find a run's students: the phases in order, then each baseline's last.

    Raises:
        ValueError: the folder is no run, or no phase is finished yet.
    """
    if not (run / "config.yaml").is_file():
        raise InputError(
            f"{run} is no run: it holds no config.yaml; give the folder that `mtkd "
            "train` or `mtkd quickstart` wrote, such as runs/quickstart"
        )
    found = {folder.parent.name: folder for folder in _phases(run / "phases")}
    for arm in sorted((run / "baselines").glob("*")):
        last = _phases(arm)[-1:]
        found |= {f"{arm.name}/{folder.parent.name}": folder for folder in last}
    if not found:
        raise InputError(f"{run} has no finished phase yet; `mtkd train` goes on")
    return found


def _phases(folder: Path) -> list[Path]:
    """Finished phases' students, in the order of the phases' numbers."""
    students = [path for path in folder.glob("*/student") if path.is_dir()]
    numbered = [path for path in students if path.parent.name[:1].isdigit()]
    return sorted(numbered, key=lambda path: int(path.parent.name.partition("-")[0]))
