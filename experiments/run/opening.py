"""Open a run: hold its folder, load what it needs, and see that all of it fits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

from align.errors import during, prefix_errors
from align.foreign.quote import say
from align.support.digest import sha256_of
from align.support.garbage import garbage_sought_among_the_new
from experiments.assemble.checks import check_disk, free_bytes, unknown_labels
from experiments.assemble.data import RunData, load_data
from experiments.assemble.idle.teachers import idle_teachers
from experiments.assemble.layer_maps import crowded_layers
from experiments.assemble.lengths import TEXTS, limits_of
from experiments.assemble.models import Models
from experiments.assemble.needs import idle_settings, left_out, with_depth
from experiments.assemble.precision import answer_of_run, asks_hardware, settle
from experiments.assemble.stored_code import check_code
from experiments.assemble.teaching import check_phase
from experiments.config.tree import Config, save_config
from experiments.config.zoo_names import build_zoo_models
from experiments.record.dates import dated, day_of, day_of_run
from experiments.record.failures import kept_errors
from experiments.record.history import (
    IDENTITY,
    identify,
    noted,
    read_json,
    remember,
    samples_per_step,
    write_json,
)
from experiments.record.lease import hold_run
from experiments.record.metrics import Metrics
from experiments.record.progress import Progress, waiting
from experiments.record.run_dir import MAIN
from experiments.record.seals import before_it_goes_on
from experiments.record.stop import stop_on_signals
from experiments.record.trackers.outside import trackers_of
from experiments.record.versions import changes, versions
from experiments.record.which_run import CONFIG
from experiments.run.arms import (
    check_arm,
    check_finished,
    plan_again,
    plan_arms,
    repeated_arms,
)
from experiments.run.context import Arms, RunContext, Stage, asked_in
from experiments.run.identity.taught import settled_commits, write_teachers
from experiments.run.lineage import (
    HELD_OUT,
    digests_of_models,
    held_out_changed,
    plugins_of_run,
    samples_digest,
    text_digests,
)
from experiments.run.measures.order import check_teachers_tell
from experiments.run.peers.companions import check_peers
from experiments.run.phase_texts import check_moving_writer, stored_stages
from experiments.run.plan import RunPlan, decides, with_one_text
from student.loop.engine import Engine
from student.loop.launch import launched_rank, launched_world
from teacher.answers import Answers
from teacher.hub.pinned import settled

ANSWERS = "answers"
"""In a run's folder, with the process's number: teachers' answers beyond memory."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedRun:
    """A plan with its models and texts, seen to go together."""

    plan: RunPlan
    """With an answer to what was left to the hardware and to the day."""
    bf16: bool | None
    """That answer; None where nothing asked."""
    models: Models
    data: RunData
    texts: Mapping[str, str]
    """Digests of what is learned from."""
    files: Mapping[str, Mapping[str, str]]
    """Digests of the files of models, and what else tells them apart, by name."""
    arms: Arms
    """Every arm that the run reports."""
    warnings: tuple[str, ...]
    """What a user should know of settings, texts, models and phases."""

    @property
    def stages(self) -> list[Stage]:
        """The phases of the run's own chain."""
        return self.arms[MAIN]

    @property
    def students(self) -> int:
        """Students that arms leave, one a phase."""
        return (len(self.arms) - len(repeated_arms(self.arms))) * len(self.stages)


def load_run(plan: RunPlan, engine: Engine, changed_plugins: bool = False) -> LoadedRun:
    """Load models and texts of a run and see that all fits; nothing is written.

    Args:
        plan: see :func:`experiments.run.plan.plan_run`.
        engine: says where models go, and answers for all processes.
        changed_plugins: go on where the code of a plugin in use has changed.

    Raises:
        ConfigError: the models do not suffice, or what the folder holds was trained
            with other settings.
        InputError: a model, file or tokenizer cannot be used.
    """
    plan, bf16 = _settled(with_one_text(plan, engine), engine)
    plan, models, unstored = _loaded(plan, engine, changed_plugins)
    data = _read(plan, models, engine, unstored)
    stages = _stages(plan, models, data)
    arms, texts = plan_arms(plan.config, stages), text_digests(data)
    check_moving_writer(plan.config, models, arms)
    check_teachers_tell(plan.config, models, stages, plan.registry)
    with waiting("computing the digests of models", engine.is_main):
        files = engine.from_main(lambda: digests_of_models(plan.config, models))
    for arm, of_arm in arms.items():
        check_arm(
            plan.config.run_dir,
            arm,
            config=plan.config,
            stages=of_arm,
            texts=texts,
            files=files,
            registry=plan.registry,
            changed_plugins=changed_plugins,
        )
    of_run = [*_warnings(plan, models, stages, engine)]
    of_run += idle_teachers(plan.config, asked_in(arms))
    domains = [sample.domain for sample in data.train]
    of_run += [s for phase in plan.phases for s in unknown_labels(phase, domains)]
    return LoadedRun(
        plan=plan,
        bf16=bf16,
        models=models,
        data=data,
        texts=texts,
        files=files,
        arms=arms,
        warnings=(*plan.warnings, *of_run, *data.warnings),
    )


@contextmanager
def open_run(
    plan: RunPlan,
    *,
    engine: Engine | None = None,
    trust: bool = False,
    changed_plugins: bool = False,
) -> Iterator[RunContext]:
    """Hold a run's folder, load models and texts, and begin or continue the run.

    Args:
        plan: see :func:`experiments.run.plan.plan_run`.
        engine: shared by several runs of one process; None makes one.
        trust: take up phases and checkpoints that this account did not write, or that
            another run did.
        changed_plugins: go on where the code of a plugin in use has changed.

    Yields:
        What all arms share. How the block ends is noted as the end of the launch; then
        the folder is given back.

    Raises:
        ConfigError: the models or the disk do not suffice, or the folder belongs to
            another run or process.
        InputError: a model, file or tokenizer cannot be used.
    """
    run_dir, started = plan.config.run_dir, time.monotonic()
    with (
        hold_run(run_dir) as lease,
        settled(settled_commits(run_dir)),
        noted(run_dir, lease, launched_world()) as launch,
        kept_errors(run_dir),
        _started(plan, engine) as engine,
        stop_on_signals(plan.pause_after) as stop,
    ):
        loaded = load_run(plan, engine, changed_plugins)
        engine.from_main(lambda: check_finished(run_dir, loaded.arms, trust))
        if engine.is_main:
            _warn(loaded.warnings)
            check_disk(run_dir, loaded.models.student_bytes, loaded.students)
        run_id = _begun(loaded, engine)
        launch.begun = True
        outside = trackers_of(loaded.plan.config, run_id) if engine.is_main else None
        metrics = Metrics(run_dir, engine.is_main, outside)
        answers = _answers(loaded.plan.config, loaded.models, engine.rank)
        try:
            with garbage_sought_among_the_new():
                yield RunContext(
                    config=loaded.plan.config,
                    registry=plan.registry,
                    engine=engine,
                    evaluators=plan.evaluators,
                    models=loaded.models,
                    data=loaded.data,
                    texts=loaded.texts,
                    files=loaded.files,
                    arms=loaded.arms,
                    answers=answers,
                    again=plan_again(loaded.arms),
                    metrics=metrics,
                    progress=Progress(engine.is_main, stop),
                    stop=stop,
                    lease=lease,
                    run_dir=run_dir,
                    run_id=run_id,
                    trust=trust,
                    changed_plugins=changed_plugins,
                    started=started,
                )
        finally:
            metrics.close()
            answers.close()


@contextmanager
def _started(plan: RunPlan, shared: Engine | None) -> Iterator[Engine]:
    """An engine, closed again unless it is shared, with the embedded models built.

    Before signals are only noted: an interrupt ends this at once, and what is built is
    kept.
    """
    train, run_dir = plan.phases[0].train, plan.config.run_dir
    with waiting("starting the engine", enabled=launched_rank() == 0):
        engine = shared or Engine(train, samples_per_step(run_dir, train))
    try:
        if engine.is_main:
            build_zoo_models(plan.config)
        engine.barrier()
        yield engine
    finally:
        if shared is None:
            engine.close()


def _settled(plan: RunPlan, engine: Engine) -> tuple[RunPlan, bool | None]:
    """With an answer wherever ``train.bf16=auto`` asks; None where nothing does."""
    if not asks_hardware(plan.config, plan.phases):
        return plan, None
    bf16 = answer_of_run(plan.config.run_dir, engine)
    config, phases = settle(plan.config, plan.phases, bf16)
    return replace(plan, config=config, phases=tuple(phases)), bf16


def _loaded(
    plan: RunPlan, engine: Engine, changed_plugins: bool
) -> tuple[RunPlan, Models, list[str]]:
    """The models, and the plan with the day that their chat templates are told; and a
    sentence on each teacher that no store holds."""
    config = plan.config
    names = ", ".join(config.teachers) or "(none)"
    with waiting(f"loading the student and teachers {names}", engine.is_main):
        models = Models(config, engine.device, plan.sources, plan.distant)
        taken = [n for phase in plan.phases for n in phase.select(models.teachers)]
        unstored = models.load_missing(taken)
    check_code(models.stores, plan.registry, changed_plugins)
    if models.tells_date:
        plan = replace(plan, config=dated(config, _day(config, models, engine)))
    return plan, models, unstored


def _day(config: Config, models: Models, engine: Engine) -> str | None:
    """What chat templates are told: as its stores were, else the day of the run."""
    if (day := day_of(models.stores)) or (models.stored and not models.live):
        return day
    return engine.from_main(lambda: day_of_run(config.run_dir))


def _read(
    plan: RunPlan, models: Models, engine: Engine, unstored: Sequence[str]
) -> RunData:
    """The texts, cut, with every teacher made to read them."""
    config = plan.config
    with waiting("reading and cutting texts", engine.is_main):
        data = load_data(
            config.data,
            models.encode,
            config.run.seed,
            decides(config, plan.phases),
            models.readers(),
        )
    scaler = plan.registry.guarded("rope_scaler", config.align.rope_scaling_method)
    lists = (data.train, data.eval, data.gate, data.calibration)
    count = sum(map(len, lists))
    with waiting(f"counting the tokens of {count:,} texts", engine.is_main):
        slowed = models.fit_lengths(chain(*lists), scaler)
    return replace(data, warnings=(*data.warnings, *unstored, *slowed))


def _stages(plan: RunPlan, models: Models, data: RunData) -> list[Stage]:
    """The phases with the teachers they chose, seen to fit each other."""
    teachers = models.teachers
    stages = [Stage(phase, tuple(phase.select(teachers))) for phase in plan.phases]
    stages = stored_stages(plan.config, models, data, stages)
    for stage in stages:
        where = f"phase {stage.phase.name!r}"
        with prefix_errors(where), during(where):
            check_phase(
                stage.phase,
                plan.registry,
                models.student_sizes,
                models.chosen(stage.teachers),
                models.student_tokenizer,
                known=plan.config.teachers,
            )
            check_peers(models, plan.registry, stage)
    return stages


def _warn(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        say(f"warning: {sentence}")


def _warnings(
    plan: RunPlan, models: Models, stages: Sequence[Stage], engine: Engine
) -> Iterator[str]:
    """What a user should know of models and phases, each once."""
    yield from models.left_out()
    idle: dict[str, None] = {}
    for stage in stages:
        teachers = models.chosen(stage.teachers)
        mapped = {
            n: teachers[n] for n in with_depth(stage.phase, plan.registry, teachers)
        }
        yield from crowded_layers(
            stage.phase, plan.registry, models.student_layers, mapped
        )
        yield from left_out(stage.phase, plan.registry, teachers)
        idle |= dict.fromkeys(idle_settings(stage.phase, teachers, plan.registry))
    if models.sharded:
        names = ", ".join(map(repr, models.sharded))
        yield (
            f"teachers {names} are split over {engine.world_size} processes, which "
            "meet in every block; train.prefetch is off"
        )
    yield from idle


def _answers(config: Config, models: Models, rank: int) -> Answers:
    """What will remember the teachers' answers of a run, in one of its processes.

    A teacher that all processes run together is left out: one of them might remember
    what another has forgotten, and wait for it.
    """
    wanted, gib = config.answers, 2**30
    frozen = models.standing.keys() - set(models.sharded)
    names = [n for n in models.live if n in frozen and wanted.keeps(n)]
    folder = config.run_dir / f"{ANSWERS}-{rank}"
    shutil.rmtree(folder, ignore_errors=True)  # of a launch that was killed
    disk = min(int(wanted.disk_gib * gib), free_bytes(config.run_dir) // 2)
    return Answers(names, folder, memory=int(wanted.memory_gib * gib), disk=disk)


def _begun(loaded: LoadedRun, engine: Engine) -> str:
    """Write what identifies the run and this launch of it; gives the run's id."""
    plan, bf16 = loaded.plan, loaded.bf16
    config, train = plan.config, plan.phases[0].train
    run_dir = config.run_dir
    if engine.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        _warn(before_it_goes_on(run_dir))
        save_config(config, run_dir / CONFIG)
        write_json(run_dir / TEXTS, limits_of(loaded.models.readers()))
        write_teachers(run_dir, config, loaded.files, loaded.models.stored)
    identity = engine.from_main(
        lambda: identify(
            run_dir, train, engine.samples_per_step, bf16, config.data.date
        )
    )
    if engine.is_main:
        code, known = versions(), read_json(run_dir / IDENTITY)
        changed = changes(known.get("versions", {}), code)
        _warn([f"this run goes on with {change}" for change in changed])
        held_out = samples_digest(loaded.data.eval)
        _warn(held_out_changed(run_dir, config, held_out))
        remember(
            run_dir,
            versions=code,
            config=sha256_of(run_dir / CONFIG),
            held_out=known.get(HELD_OUT, held_out),
            plugins=dict(plugins_of_run(plan.config, plan.registry, plan.phases)),
            tried_plugins=dict(plan.tried_plugins),
        )
    return str(identity["id"])
