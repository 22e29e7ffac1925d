"""What a run will do, as its config says: nothing is loaded, nothing of it is written.

A student that is to be made is, into the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from align.foreign.inside import refuse_links_out
from experiments.assemble.checks import check_resume, check_settings
from experiments.assemble.idle.settings import idle_settings_given
from experiments.assemble.text_sources import check_sources, source_warnings
from experiments.config.presets import presets_of
from experiments.config.tree import Config, PhaseConfig, hidden_settings, resolve_phases
from experiments.config.used_plugins import (
    curricula_used,
    names_used,
    options_used,
    writers_used,
)
from experiments.evaluators.chosen import Chosen, evaluators_of, evaluators_used
from experiments.making.apart import check_apart
from experiments.making.made import makers_used, with_made_student
from experiments.making.origin_map import with_origin_maps
from experiments.making.pairs import check_pairs
from experiments.making.transforms import check_transforms
from experiments.record.history import tried_before
from experiments.record.progress import waiting
from experiments.run.measures.order import check_curriculum, curriculum_notes
from experiments.run.phase_texts import check_written, written_notes
from experiments.sources.compiled import check_compile
from experiments.sources.distant import Distant, check_teacher_ranks
from experiments.sources.named import sources_of, sources_used
from experiments.sources.phases import moving_warnings, with_present
from experiments.sources.ranks import among_students, answer_students
from experiments.texts.hub import pinned_alike, pinned_lists
from plugins.registry import Registry
from plugins.trial import try_used
from student.loop.launch import Parting, launched_rank
from teacher.hub.pinned import settle_alike
from teacher.names import pinned
from teacher.sources.base import TeacherSource

if TYPE_CHECKING:
    from student.loop.engine import Engine


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """A run whose settings, plugins and texts go together."""

    config: Config
    registry: Registry
    phases: tuple[PhaseConfig, ...]
    """Resolved, in running order."""
    sources: Mapping[str, TeacherSource]
    """Where every teacher comes from, by its name."""
    evaluators: Chosen
    """What students are measured by."""
    tried_plugins: Mapping[str, str]
    """Stamps of the strangers' plugins in use, which keep their contracts."""
    warnings: tuple[str, ...]
    """What a user should know of the settings and of where the texts are from."""
    pause_after: int | None = None
    """Optimiser steps of the run's own chain of phases after which it saves and leaves,
    as if asked to; None: it goes to its end."""
    distant: Distant | None = None
    """The ranks that hold its teachers, see :func:`parted`; None: every process its
    own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """What a config's settings come to, and that they go together."""

    config: Config
    phases: tuple[PhaseConfig, ...]
    """Resolved, in running order."""
    sources: Mapping[str, TeacherSource]
    """Where every teacher comes from, by its name."""
    evaluators: Chosen
    """What students are measured by."""


def settle(config: Config, registry: Registry, *, make: bool = True) -> Settled:
    """Check all that settings and texts alone can tell.

    Args:
        config: the run.
        registry: everything that the config can call by name.
        make: whether a student that is to be made is made where it is missing; without,
            nothing is written, and what only that student can tell is left out.

    Raises:
        ConfigError: settings that do not go together.
        PluginError: nobody offers a name.
        InputError: a text is not there, or a value that cannot be meant.
    """
    phases: Sequence[PhaseConfig] = resolve_phases(config, presets_of(registry))
    config = replace(
        config, data=pinned_lists(config.data, config.run_dir / "config.yaml")
    )
    check_pairs(config, phases, registry)
    check_apart(config, phases, registry)
    check_sources(config.data)
    if make:
        config = with_made_student(config, registry)
    if make or not makers_used(config):
        phases = with_origin_maps(config, phases)
    check_settings(config, phases, registry)
    check_transforms(config, phases, registry)
    check_compile(config, phases)
    evaluators = evaluators_of(config, phases, registry)
    sources = sources_of(config, registry)
    phases = with_present(config, phases, sources)
    check_written(config, registry, sources)
    check_teacher_ranks(config, phases, sources)
    check_curriculum(config, phases, registry)
    return Settled(
        config=config, phases=tuple(phases), sources=sources, evaluators=evaluators
    )


def try_plugins(
    settled: Settled, registry: Registry, tried: Mapping[str, str]
) -> dict[str, str]:
    """Put the strangers' plugins of a run through their contracts.

    Args:
        settled: the run.
        registry: knows the names.
        tried: stamps of an earlier call; the same code is not tried again.

    Returns:
        Stamps of those in use, see :func:`plugins.trial.try_used`.

    Raises:
        PluginError: one breaks its contract.
    """
    config, phases = settled.config, settled.phases
    used = sources_used(config, registry) | makers_used(config)
    used |= writers_used(config) | curricula_used(config)
    used |= evaluators_used(config.eval.use)
    with waiting("trying the plugins in use", launched_rank() == 0):
        return try_used(
            registry,
            [*names_used(phases), *used],
            tried,
            options_used(phases) | used,
        )


def plan_run(config: Config, registry: Registry, resume: str = "auto") -> RunPlan:
    """Resolve the phases and check all that can be checked from settings and texts.

    Args:
        config: the run.
        registry: everything that the config can call by name.
        resume: ``auto`` continues a run or starts one, ``never`` refuses an existing
            run, ``must`` refuses to start a new one.

    Raises:
        ConfigError: the config cannot be run, or ``resume`` does not fit what is there.
        PluginError: nobody offers a name, or a plugin in use breaks its contract.
        InputError: a text is not there, or does not begin with text; or a link in the
            run's folder leads out of it.
    """
    settled = settle(config, registry)
    config = settled.config
    refuse_links_out(config.run_dir)
    check_resume(config.run_dir, resume)
    tried = try_plugins(settled, registry, tried_before(config.run_dir))
    return RunPlan(
        config=config,
        registry=registry,
        phases=settled.phases,
        sources=settled.sources,
        evaluators=settled.evaluators,
        tried_plugins=tried,
        warnings=(
            *hidden_settings(config, presets_of(registry)),
            *idle_settings_given(
                config, settled.phases, presets_of(registry), registry
            ),
            *written_notes(config),
            *curriculum_notes(config),
            *source_warnings(config),
            *moving_warnings(settled.sources),
        ),
    )


@contextmanager
def parted(plan: RunPlan) -> Iterator[RunPlan | None]:
    """What this process of a launch has to do of a plan, see ``train.teacher_ranks``.

    Yields:
        To one that trains, the plan with the ranks that hold its teachers. To one of
        these None, when it has answered and all that train have left.

    Raises:
        InputError: the launcher started too many or too few processes.
    """
    train = plan.phases[0].train
    if not train.teacher_ranks:
        yield plan
        return
    parting = Parting.of_launch(train.teacher_ranks)
    if parting.teaches:
        method = plan.config.align.rope_scaling_method
        answer_students(parting, train, plan.registry.guarded("rope_scaler", method))
        yield None
        return
    with among_students(parting, plan.config, plan.sources, train) as distant:
        yield replace(plan, distant=distant)


def with_one_text(plan: RunPlan, engine: Engine) -> RunPlan:
    """The plan with the commits of the hub's data sets that the main process saw; what
    it sees of models is what all read from here on."""
    if engine.world_size > 1:
        teachers = [entry.model for entry in plan.config.teachers.values()]
        every = map(pinned, [plan.config.student.model, *teachers])
        settle_alike([parts for parts in every if parts], engine.from_main)
    data = pinned_alike(plan.config.data, engine.from_main)
    return replace(plan, config=replace(plan.config, data=data))


def decides(config: Config, phases: Sequence[PhaseConfig]) -> bool:
    """Whether a measurement decides what the run's student is: it gets text of its own
    then, where there is enough."""
    watched = any(phase.train.watched for phase in phases)
    return config.gate.action == "rollback" or watched
