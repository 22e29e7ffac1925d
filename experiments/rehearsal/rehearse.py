"""Try a run out: load it as it will be, look at its texts, take its first steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.config.tree import Config
from experiments.estimate.measured import Measured, measured_training
from experiments.estimate.steps import Lesson, device_memory
from experiments.estimate.training import TrainingNeeds, training_needs
from experiments.estimate.trial import Trial
from experiments.record.history import samples_per_step
from experiments.record.progress import waiting
from experiments.rehearsal.lessons import PhaseRehearsal, tried_phase
from experiments.rehearsal.readers import Domain, Reader, domains_of, readers_of
from experiments.run.opening import LoadedRun, load_run
from experiments.run.plan import RunPlan
from student.loop.engine import Engine
from student.loop.launch import without_launcher
from teacher.loading.model_config import read_config


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What a run would be."""

    warnings: Sequence[str]
    notes: Sequence[str]
    """How the texts were cut."""
    readers: Sequence[Reader]
    """The student first."""
    domains: Sequence[Domain]
    measured_on: int
    """Held-out samples."""
    phases: Sequence[PhaseRehearsal]
    needs: TrainingNeeds
    transformed: Sequence[str]
    """A sentence on each transform of each phase."""
    memory: dict[str, int]
    """Of one training process in bytes, by what it is for."""
    device_memory: int


def rehearse(plan: RunPlan, changed_plugins: bool = False) -> Rehearsal:
    """Load a run and take one optimiser step of each phase; nothing is written.

    One process of this machine, whatever engine and launcher the run will have.

    Args:
        plan: see :func:`experiments.run.plan.plan_run`.
        changed_plugins: go on where the code of a plugin in use has changed.

    Raises:
        MtkdError: what would end the run at its start, or a model of the zoo that is
            not built.
    """
    with without_launcher():
        return _rehearse(plan, changed_plugins)


def _rehearse(plan: RunPlan, changed_plugins: bool) -> Rehearsal:
    train = replace(plan.phases[0].train, engine="torch")
    engine = Engine(train, samples_per_step(plan.config.run_dir, train))
    try:
        run = load_run(plan, engine, changed_plugins)
        aligner = plan.registry.guarded("aligner", plan.config.align.aligner)()
        with waiting("reading texts with every tokenizer"):
            domains = domains_of(run.data.train, run.models, aligner)
            readers = readers_of(run.models, _family(plan.config))
        trial = Trial.of_run(run, engine.device)
        measured, phases = _tried(run, engine, trial)
    finally:
        engine.close()
    return Rehearsal(
        warnings=run.warnings,
        notes=run.data.notes,
        readers=readers,
        domains=domains,
        measured_on=len(run.data.eval),
        phases=phases,
        needs=training_needs(trial, measured.paces, measured.trained),
        transformed=measured.transformed,
        memory=measured.memory,
        device_memory=device_memory(),
    )


def _tried(
    run: LoadedRun, engine: Engine, trial: Trial
) -> tuple[Measured, list[PhaseRehearsal]]:
    phases: list[PhaseRehearsal] = []

    def step(index: int, lesson: Lesson) -> None:
        phases.append(tried_phase(run, engine, index, lesson))

    with waiting("calibrating, and taking some steps of each phase"):
        measured = measured_training(trial, then=step)
    return measured, phases


def _family(config: Config) -> str:
    student = config.student
    settings, _ = read_config(student.model, student.trust_remote_code)
    return str(settings.model_type)
