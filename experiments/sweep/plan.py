"""A sweep whose trials are seen, one by one, to be runs that can begin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from align.errors import InputError, prefix_errors
from experiments.config.parsing import plain
from experiments.config.sections import check_folder_name
from experiments.config.tree import (
    Config,
    PhaseConfig,
    load_config,
)
from experiments.evaluators.chosen import Chosen
from experiments.record.history import read_json, write_json
from experiments.record.which_run import CONFIG
from experiments.run.plan import settle, try_plugins
from experiments.sweep.halving import Rungs, rungs_of
from experiments.sweep.space import SEED, Settings, Space, written
from experiments.sweep.trials import TRIALS, Trial, names_of
from plugins.registry import Registry
from student.evaluators.base import Metric

SWEEP = "sweep.json"
"""In a sweep's folder: what it is."""
CONFIGS = "configs"
"""Folder of the trials' configs."""

Search = Literal["grid", "random", "halving"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sought:
    """What a command asks a sweep for."""

    by: str
    """``METRIC`` or ``METRIC:PART``."""
    search: Search = "grid"
    trials: int | None = None
    """Combinations that are drawn; None: all."""
    pareto: tuple[str, ...] = ()
    """Metrics between which students are a compromise."""
    min_steps: int | None = None
    """Of the first rung of a halving; None: those of the last two reductions before
    the end."""
    reduction: int | None = None
    """Of how many trials a rung of a halving lets one go on; None: three."""
    seed: int | None = None
    """Of what is drawn; None: 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """All that a sweep does."""

    folder: Path
    sought: Sought
    space: Space
    trials: tuple[Trial, ...]
    metrics: dict[str, Metric]
    """By what ``sought`` names."""
    rungs: Rungs | None
    """Of a halving."""

    @property
    def lower(self) -> bool:
        """Whether less is better by the metric that decides."""
        return self.metrics[self.sought.by].better == "lower"

    @property
    def groups(self) -> dict[Settings, list[Trial]]:
        """Trials that differ by their seeds alone, by what they have in common."""
        groups: dict[Settings, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(trial.group, []).append(trial)
        return groups


def plan_sweep(
    source: Mapping[str, Any],
    space: Space,
    sought: Sought,
    *,
    registry_of: Callable[[Config], Registry],
    name: str | None = None,
    change: Callable[[Config], Config] = lambda config: config,
) -> Sweep:
    """Lay out every trial, and see that each can be meant; nothing is written.

    Args:
        source: of the config, see :func:`experiments.sweep.space.read_once`.
        space: what is tried.
        sought: by what it is judged, and how it is gone through.
        registry_of: plugins of a config.
        name: of the sweep's folder beside runs; None: the config's name and ``-sweep``.
        change: what the command adds to every config, such as plugins.

    Raises:
        ConfigError: settings of a trial that cannot be meant, or do not go together.
        InputError: nothing measures the metric, a halving that cannot compare, or a
            folder that holds something else.
    """
    base = load_config(source, space.fixed)
    name = f"{base.run.name}-sweep" if name is None else name
    _check_name(name)
    _check_search(sought)
    folder = Path(base.run.dir) / name
    every = _settings(space, sought)
    names = names_of(every)
    trials = []
    metrics: dict[str, Metric] = {}
    tried: dict[str, str] = {}
    phases: list[list[PhaseConfig]] = []
    registry: Registry | None = None
    for settings, trial_name in zip(every, names, strict=True):
        config = _config(source, space, settings, folder, trial_name)
        registry = registry or registry_of(change(config))
        trial = Trial(name=trial_name, settings=settings, config=change(config))
        with prefix_errors(f"trial {trial_name}"):
            settled = settle(config, registry, make=False)
            tried |= try_plugins(settled, registry, tried)
            phases.append(list(settled.phases))
            metrics = _metrics(settled.evaluators, sought)
        trials.append(trial)
    rungs = None
    if sought.search == "halving":
        rungs = rungs_of(phases, sought.min_steps, sought.reduction or 3)
        trials = [_watched(trial, rungs) for trial in trials]
    return Sweep(
        folder=folder,
        sought=sought,
        space=space,
        trials=tuple(trials),
        metrics=metrics,
        rungs=rungs,
    )


def check_begun(sweep: Sweep) -> dict[str, Any]:
    """See that what lies in a sweep's folder, if any, is the same sweep.

    Returns:
        What has to be the same, for its file.

    Raises:
        InputError: the folder holds a run, a sweep of another config or metric, or a
            trial of this name with other settings or another seed.
    """
    if (sweep.folder / CONFIG).is_file():
        raise InputError(
            f"{sweep.folder} is a run's folder; give the sweep another one by --name"
        )
    known = read_json(sweep.folder / SWEEP)
    mine = _identity(sweep)
    differs = [key for key in known if key in mine and known[key] != mine[key]]
    if differs:
        raise InputError(
            f"{sweep.folder} is a sweep of another {' and '.join(differs)}; trials of "
            "both could not be compared: give this one another --name, or remove that "
            "folder. More values, trials and seeds of the same one may be added"
        )
    for trial in sweep.trials:
        trial.check_noted()
    return mine


def begin(sweep: Sweep) -> None:
    """Write what the sweep is, unless it is there.

    Raises:
        InputError: see :func:`check_begun`.
    """
    mine = check_begun(sweep)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    if not (sweep.folder / SWEEP).is_file():
        write_json(sweep.folder / SWEEP, mine)


def config_file(sweep: Sweep, trial: Trial) -> Path:
    """Where a trial's whole config lies."""
    return sweep.folder / CONFIGS / f"{trial.name}.yaml"


def _check_name(name: str) -> None:
    try:
        check_folder_name("run", name)
    except ValueError:
        raise InputError(
            f"--name is {name!r}; give one folder's name without '/', not '..', that "
            "does not begin with '-' or '~'; its parent is run.dir"
        ) from None


def _check_search(sought: Sought) -> None:
    """See that no option is left unread."""
    if sought.search == "random" and sought.trials is None:
        raise InputError("--search random needs --trials N: how many are drawn")
    if sought.search == "grid" and sought.trials is not None:
        raise InputError(
            "--trials is for --search random or halving; a grid has all of its values"
        )
    for option, value in (
        ("--min-steps", sought.min_steps),
        ("--reduction", sought.reduction),
    ):
        if sought.search != "halving" and value is not None:
            raise InputError(
                f"{option} is {value}, but --search {sought.search} has no rungs; "
                "add --search halving, or leave it out"
            )
    if sought.trials is None and sought.seed is not None:
        raise InputError(
            f"--draw is {sought.seed}, but nothing is drawn; add --search random "
            "--trials N, or leave it out"
        )


def _settings(space: Space, sought: Sought) -> list[Settings]:
    if sought.trials is None:
        return space.grid()
    return space.drawn(sought.trials, sought.seed or 0)


def _config(
    source: Mapping[str, Any], space: Space, settings: Settings, folder: Path, name: str
) -> Config:
    tried = [written(key, value) for key, value in settings]
    with prefix_errors(f"trial {name}"):
        config = load_config(source, [*space.fixed, *tried])
    run = replace(config.run, dir=str(folder / TRIALS), name=name)
    return replace(config, run=run)


def _metrics(evaluators: Chosen, sought: Sought) -> dict[str, Metric]:
    asked = {sought.by: "--by"} | dict.fromkeys(sought.pareto, "--pareto")
    of_teachers = {
        metric
        for evaluator in evaluators.by_name.values()
        if evaluator.of_teachers
        for metric in evaluator.metrics
    }
    metrics = {}
    for wanted, setting in asked.items():
        name = wanted.partition(":")[0]
        metrics[wanted] = evaluators.metric(name, setting)
        if name in of_teachers:
            raise InputError(
                f"{setting} is {name!r}, which is measured of teachers, not of a "
                "student; give a metric of students"
            )
    return metrics


def _watched(trial: Trial, rungs: Rungs) -> Trial:
    """Measured at every rung."""
    every = trial.config.eval.every
    if every and all(rung % every == 0 for rung in rungs.steps):
        return trial
    watched = replace(trial.config.eval, every=rungs.steps[0])
    return replace(trial, config=replace(trial.config, eval=watched))


def _identity(sweep: Sweep) -> dict[str, Any]:
    """What has to be the same for two sweeps' trials to be compared."""
    varied = {*sweep.space.tried, SEED, "run.name", "run.dir"}
    first = sweep.trials[0].config
    lines = [
        line
        for line in _flat(json.loads(json.dumps(plain(first), default=str)))
        if not any(f"{line[0]}.".startswith(f"{key}.") for key in varied)
    ]
    sought = sweep.sought
    return {
        "config": hashlib.sha256(json.dumps(sorted(lines)).encode()).hexdigest(),
        "search": sought.search,
        "rungs": None if sweep.rungs is None else list(sweep.rungs.steps),
        "reduction": None if sweep.rungs is None else sweep.rungs.reduction,
        "tried settings": sorted(sweep.space.tried.keys() - {SEED}),
        # which trials go on depends on it where some are dropped on the way
        **({} if sweep.rungs is None else {"metric": sought.by}),
    }


def _flat(tree: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(tree, dict) and tree:
        return [
            line
            for key, value in tree.items()
            for line in _flat(value, f"{path}.{key}" if path else key)
        ]
    return [(path, json.dumps(tree))]
