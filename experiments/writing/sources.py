"""Find the models that are to write: a run's students, or any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from align.errors import InputError
from align.support.quiet import quiet_libraries
from experiments.config.tree import load_kept_config
from experiments.record.progress import waiting
from experiments.record.seals import warn_unsealed
from experiments.record.students import (
    FIRST,
    Trained,
    baselines_of,
    phase_called,
    phases_of,
)
from experiments.record.which_run import is_run
from experiments.writing.writer import Writer
from teacher.loading.models import load_model


@dataclass(frozen=True, slots=True)
class Source:
    """One model that is to write."""

    label: str
    """What it is called beside others."""
    load: Callable[[], Writer]


def sources_of(
    name: str,
    *,
    phase: str | None = None,
    all_phases: bool = False,
    baselines: bool = False,
) -> list[Source]:
    """The models to set side by side: of a run before and after, of a model itself.

    Args:
        name: a run's folder, a model's folder, a hub name or ``zoo:NAME``.
        phase: before and after this phase, in place of the whole run.
        all_phases: after every phase, too.
        baselines: also the baselines' students after the same phase.

    Raises:
        InputError: no such phase or baseline, no student yet, or a model of which
            phases are asked.
    """
    if not is_run(name):
        if phase is not None or all_phases or baselines:
            raise InputError(
                f"{name} is a model and no run, which would have phases and "
                "baselines; leave --phase, --all-phases and --baselines out"
            )
        return [Source(name, lambda: load_writer(name, name))]
    run = Path(name).expanduser()
    warn_unsealed(run)
    phases = phases_of(run)
    last = next((p for p in reversed(phases) if not p.rolled_back), None)
    if phase is not None:
        shown = phase_called(phases, phase, run)
        sources = [_before(run, shown, phases), _after(shown)]
    elif all_phases:
        shown = phases[-1]
        sources = [_before(run, phases[0], phases), *map(_after, phases)]
    else:
        shown = phases[-1] if last is None else last
        sources = [_before(run, phases[0], phases)]
        sources += [] if last is None else [_after(last)]
    if baselines:
        sources += [
            Source(f"{arm}, after {shown.name}", _loader(folder))
            for arm, folder in baselines_of(run, shown).items()
        ]
    return sources


def student_source(name: str, phase: str | None = None) -> Source:
    """The one model to talk to: a run's student, or that after a phase.

    Raises:
        InputError: as of :func:`sources_of`.
    """
    return sources_of(name, phase=phase)[-1]


def load_writer(
    name: str,
    source: str,
    init_seed: int | None = None,
    vocabulary: str | None = None,
) -> Writer:
    """Load a model to write with, on the accelerator where there is one.

    Args:
        name: what the user calls it.
        source: see :func:`teacher.names.model_source`.
        init_seed: draw its weights anew from this seed.
        vocabulary: as of :func:`teacher.loading.models.load_model`.

    Raises:
        InputError: it is an encoder alone, or cannot be loaded.
    """
    quiet_libraries()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # A CPU reckons in float32; elsewhere the checkpoint's own type is quicker.
    dtype = "float32" if device.type == "cpu" or init_seed is not None else None
    role = "teacher" if init_seed is None else "student"
    with waiting(f"loading {name}"):
        loaded = load_model(
            source,
            role=role,
            dtype=dtype,
            init_seed=init_seed,
            vocabulary=vocabulary,
        )
    if loaded.kind == "encoder":
        raise InputError(
            f"{name} is an {loaded.kind}, which goes on with no text; give a causal "
            "language model, or an encoder-decoder"
        )
    model: Any = loaded.model  # transformers hides the type of .to
    return Writer(model.to(device), loaded.tokenizer, name)


def _loader(folder: Path) -> Callable[[], Writer]:
    return lambda: load_writer(str(folder), str(folder))


def _after(phase: Trained) -> Source:
    label = f"after {phase.name}"
    label += " (rolled back)" if phase.rolled_back else ""
    return Source(label, _loader(phase.folder))


def _before(run: Path, phase: Trained, phases: list[Trained]) -> Source:
    if phase.before is not None:
        name = next(p.name for p in phases if p.folder == phase.before)
        return Source(f"before {phase.name}: after {name}", _loader(phase.before))
    config = load_kept_config(run / "config.yaml")
    student = config.student
    seed = config.run.seed if student.init == "fresh" else None
    given = config.vocabulary
    return Source(FIRST, lambda: load_writer(student.model, student.model, seed, given))
