"""What can be seen of a run before it begins, without a weight: ``mtkd train --check``.

A job that waited a day in a queue should not end on a name written wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from align.errors import MissingFileError, prefix_errors
from align.schedules.setting import in_short
from experiments.assemble.checks import check_causal, check_positions
from experiments.assemble.idle.teachers import idle_teachers
from experiments.assemble.read_through import read_through
from experiments.config.presets import load_registry
from experiments.config.tree import Config
from experiments.run.arms import plan_arms, repeated_arms
from experiments.run.context import Stage, asked_in
from experiments.run.plan import RunPlan, plan_run
from experiments.sources.making import tell_code
from experiments.sources.named import described_by, said_of, stored_facts
from plugins.registry import Registry
from student.transforms.choice import chosen_transforms
from teacher.capture.limits import position_limit
from teacher.loading.fresh import fresh_model
from teacher.loading.model_config import read_config
from teacher.names import MADE, ZOO, made_folder_of, zoo_parts
from teacher.packages.manifest import read_manifest
from teacher.sources.base import TeacherSource
from teacher.teacher_rule import TeacherFacts


def preflight(
    config: Config, registry: Registry | None = None, resume: str = "auto"
) -> list[str]:
    """See that settings, names, texts and models of a run are there and go together.

    Models are known by their ``config.json``: from a folder, the hub's cache or, unless
    ``HF_HUB_OFFLINE`` is set, the hub. Embedded ones that are not built yet would be.

    Args:
        config: the run.
        registry: plugins; None loads the built-in and the installed ones.
        resume: as of :func:`experiments.run.plan.plan_run`.

    Returns:
        Sentences on what the run would do, and what a user should know of it.

    Raises:
        MtkdError: what would end the run at its start; names the place.
    """
    return describe_plan(plan_run(config, registry or load_registry(config), resume))


def describe_plan(plan: RunPlan) -> list[str]:
    """:func:`preflight` of a run whose settings were seen to go together."""
    config = plan.config
    sentences = [f"warning: {sentence}" for sentence in plan.warnings]
    trust = config.student.trust_remote_code
    with prefix_errors("student"):
        tell_code("student", config.student, config.student.model)
    student = _config_of(config.student.model, "student", trust)
    sentences += _made_of(config.student.model)
    if student is not None:
        settings, kind = student
        check_causal(config.student.model, kind)
        check_positions(config, _positions(settings, trust))
    sources = plan.sources
    facts = {name: _facts(config, name, source) for name, source in sources.items()}
    known = {name: fact for name, fact in facts.items() if fact is not None}
    if len(known) == len(facts):
        sentences += _plan(plan, known)
    else:
        unbuilt = ", ".join(name for name in facts if name not in known)
        sentences.append(f"embedded teachers to be built first: {unbuilt}")
    sentences += said_of(sources)
    sentences += read_through(config.data)
    return [*sentences, f"run: {config.run_dir.absolute()}"]


def _made_of(student: str) -> Iterator[str]:
    """What the student was made of, and how."""
    if student.startswith(MADE):
        manifest = read_manifest(made_folder_of(student))
        assert manifest is not None and manifest.making is not None, "it was just made"
        making = manifest.making
        yield (
            f"student: {manifest.source} with {manifest.conversion}; "
            f"{making.kept} weights ({student})"
        )


def _teacher_of(config: Config, name: str, model: str) -> tuple[Any, str] | None:
    entry, place = config.teachers[name], f"teachers.{name}"
    with prefix_errors(place):
        tell_code(place, entry, model)
    return _config_of(model, place, entry.trust_remote_code)


def _config_of(model: str, place: str, trust: bool = False) -> tuple[Any, str] | None:
    """Settings and kind of a model; None of an embedded one that is not built."""
    with prefix_errors(place):
        if model.startswith(ZOO):
            from teacher.zoo import zoo_path

            scale, name = zoo_parts(model)
            try:
                model = str(zoo_path(name, scale=scale))
            except MissingFileError:
                return None
        return read_config(model, trust)


def _facts(config: Config, name: str, source: TeacherSource) -> TeacherFacts | None:
    """Kind and family of a teacher; None of an embedded one that is not built."""
    with prefix_errors(f"teachers.{name}"):
        stored = stored_facts(source)
    if stored is not None:
        return TeacherFacts(kind=stored.kind, family=stored.family)
    model = _teacher_of(config, name, described_by(config, source)[0])
    if model is None:
        return None
    settings, kind = model
    return TeacherFacts(kind=kind, family=settings.model_type)


def _positions(settings: Any, trust: bool) -> int | None:
    """Of a causal model's table of positions, found on a model without weights."""
    with torch.device("meta"):
        return position_limit(fresh_model(settings, 0, torch.float32, trust))


def _plan(plan: RunPlan, facts: dict[str, TeacherFacts]) -> Iterator[str]:
    """Which teachers each phase takes, and which arms are trained."""
    stages = [Stage(phase, tuple(phase.select(facts))) for phase in plan.phases]
    for stage in stages:
        taught = ", ".join(stage.teachers) or "cross-entropy alone"
        yield f"phase {stage.phase.name}: {taught}"
        chosen = chosen_transforms(stage.phase.transform)
        said = [
            f"{n}, strength {in_short(each.strength)}" for n, each in chosen.items()
        ]
        if said:
            yield f"phase {stage.phase.name} transforms by {'; '.join(said)}"
    arms = plan_arms(plan.config, stages)
    repeated = repeated_arms(arms)
    yield f"arms: {', '.join(arm for arm in arms if arm not in repeated)}"
    idle = idle_teachers(plan.config, asked_in(arms))
    yield from (f"warning: {sentence}" for sentence in idle)
