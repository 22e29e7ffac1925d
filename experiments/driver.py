"""Run a whole job: phases, baselines, measurements, report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.alignment_figures import draw_what_meets
from experiments.arms import (
    Arms,
    check_arm,
    course_of,
    phase_folder,
    plan_arms,
    repeated_arms,
    train_gated,
    train_others,
    with_repeated,
)
from experiments.checks import check_disk, check_resume, check_settings
from experiments.config import (
    Config,
    PhaseConfig,
    hidden_settings,
    resolve_phases,
    save_config,
)
from experiments.data import RunData, load_data
from experiments.dates import dated, day_of_run
from experiments.depth import crowded_layers
from experiments.evaluation import starting_point, teachers_alone
from experiments.extraction.code import check_code
from experiments.extraction.stages import stored_stages
from experiments.failures import kept_errors
from experiments.gates import kept_before
from experiments.history import (
    IDENTITY,
    STATE,
    identify,
    noted,
    read_json,
    remember,
    samples_per_step,
    tried_before,
    write_json,
)
from experiments.lease import Lease, hold_run
from experiments.ledger import ledger
from experiments.lengths import TEXTS, limits_of
from experiments.lineage import text_digests
from experiments.metrics import Metrics
from experiments.models import Models
from experiments.outputs import idle_settings
from experiments.place import during, named
from experiments.precision import answer_of_run, asks_hardware, settle
from experiments.presets import load_registry, presets_of
from experiments.progress import Progress, waiting
from experiments.reading import tell_reading, tell_texts
from experiments.run_dir import MAIN, read_run, written_so_far
from experiments.run_parts import RunContext, Stage
from experiments.stop import RunStopped, StopRequest, stop_on_signals
from experiments.summary import summarize
from experiments.teaching import check_phase
from experiments.text_sources import check_sources, source_warnings
from experiments.used_plugins import names_used, options_used, plugin_records
from experiments.versions import changes, versions
from experiments.zoo_names import build_zoo_models
from plugins.registry import Registry
from plugins.trial import try_used
from student.engine import Engine
from student.launch import launched_rank, launched_world


def run_training(
    config: Config,
    *,
    registry: Registry | None = None,
    resume: str = "auto",
    engine: Engine | None = None,
    trust: bool = False,
    changed_plugins: bool = False,
) -> Path:
    """Train through all phases and baselines, then write the report.

    What is complete already is not done again, so the same call continues a run
    that was stopped or killed.

    Args:
        config: the run.
        registry: plugins; None loads the built-in and the installed ones.
        resume: ``auto`` continues a run or starts one, ``never`` refuses an existing
            run, ``must`` refuses to start a new one. Settings may have changed where
            nothing finished depends on them.
        engine: shared by several runs of one process; None makes one.
        trust: take up checkpoints that another run wrote.
        changed_plugins: go on where the code of a plugin in use has changed.

    Returns:
        The run directory.

    Raises:
        ConfigError: the config cannot be run, or the directory belongs to another.
        PluginError: a plugin in use does not keep its contract.
        ValueError: a model, file or tokenizer cannot be used.
        RunStopped: asked to stop; saved.
    """
    registry = registry or load_registry(config)
    phases = resolve_phases(config, presets_of(registry))
    check_settings(config, phases, registry)
    check_sources(config.data)
    run_dir = config.run_dir
    check_resume(run_dir, resume)
    started = time.monotonic()
    with waiting("trying the plugins in use", launched_rank() == 0):
        tried = try_used(
            registry,
            names_used(phases),
            tried_before(run_dir),
            options_used(phases),
        )
    with (
        hold_run(run_dir) as lease,
        noted(run_dir, lease, launched_world()),
        kept_errors(run_dir),
    ):
        own = engine is None
        train = phases[0].train
        with waiting("starting the engine", enabled=launched_rank() == 0):
            engine = engine or Engine(train, samples_per_step(run_dir, train))
        try:
            # Before signals are only noted: an interrupt ends this at once, and what
            # is built is kept.
            if engine.is_main:
                build_zoo_models(config)
            engine.barrier()
            with stop_on_signals() as stop:
                bf16 = None
                if asks_hardware(config, phases):
                    bf16 = answer_of_run(run_dir, engine)
                    config, phases = settle(config, phases, bf16)
                launch = Launch(
                    engine, stop, lease, trust, changed_plugins, tried, started, bf16
                )
                _open_and_run(config, registry, phases, launch)
        finally:
            if own:
                engine.close()
    return run_dir


@dataclass(frozen=True, slots=True)
class Launch:
    """What one start of a run brings with it."""

    engine: Engine
    stop: StopRequest
    lease: Lease | None
    """None on all processes but the first."""
    trust: bool
    changed_plugins: bool
    tried: Mapping[str, str]
    """Stamps of the plugins in use, whose contracts are kept."""
    started: float
    """By the monotonic clock."""
    bf16: bool | None = None
    """What ``train.bf16=auto`` came to; None where no phase asks."""

    def may_write(self) -> None:
        """See that the run is still this launch's."""
        if self.lease is not None:
            self.lease.check()


def _open_and_run(
    config: Config,
    registry: Registry,
    phases: list[PhaseConfig],
    launch: Launch,
) -> None:
    """Load models and texts, check all that can be checked before work, and work."""
    run_dir, engine = config.run_dir, launch.engine
    with waiting(_loading(config), engine.is_main):
        models = Models(config, engine.device)
    check_code(models.stores, registry, launch.changed_plugins)
    if models.tells_date:
        config = dated(config, _day(config, models, engine))
    gated = config.gate.action == "rollback"
    readers, seed = models.readers(), config.run.seed
    with waiting("reading and cutting texts", engine.is_main):
        data = load_data(config.data, models.encode, seed, gated, readers)
    scaler = registry.guarded("rope_scaler", config.align.rope_scaling_method)
    every = [*data.train, *data.eval, *data.gate, *data.calibration]
    with waiting(f"counting the tokens of {len(every):,} texts", engine.is_main):
        told = models.fit_lengths(every, scaler)
    data = replace(data, warnings=(*data.warnings, *told))
    stages = _stages(config, registry, phases, models, data)
    arms, texts = plan_arms(config, stages), text_digests(data)
    for arm, own_stages in arms.items():
        check_arm(
            run_dir, arm, config, own_stages, texts, registry, launch.changed_plugins
        )
    if engine.is_main:
        for sentence in [
            *hidden_settings(config, presets_of(registry)),
            *source_warnings(config),
            *models.left_out(),
            *_crowded(registry, models, stages),
            *_shared(models, engine),
            *_idle(models, stages),
            *data.warnings,
        ]:
            print(f"warning: {sentence}", file=sys.stderr)
        trained = len(arms) - len(repeated_arms(arms))
        check_disk(run_dir, models.student_bytes, trained * len(stages))
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / "config.yaml")
        write_json(run_dir / TEXTS, limits_of(readers))
    train, shared = phases[0].train, engine.samples_per_step
    identity = engine.from_main(
        lambda: identify(run_dir, train, shared, launch.bf16, config.data.date)
    )
    if engine.is_main:
        _note_code(run_dir, registry, phases, launch.tried)
    metrics, progress = Metrics(run_dir, engine.is_main), Progress(engine.is_main)
    run = RunContext(
        config=config,
        registry=registry,
        engine=engine,
        models=models,
        data=data,
        texts=texts,
        metrics=metrics,
        progress=progress,
        stop=launch.stop,
        run_dir=run_dir,
        run_id=identity["id"],
        trust=launch.trust,
        changed_plugins=launch.changed_plugins,
        may_write=launch.may_write,
    )
    try:
        _run(run, arms, launch.started)
    finally:
        metrics.close()


def _day(config: Config, models: Models, engine: Engine) -> str | None:
    """What chat templates are told: as its stores were, else the day of the run."""
    if config.store.read:
        return models.stored_date
    day: str | None = engine.from_main(lambda: day_of_run(config.run_dir))
    return day


def _idle(models: Models, stages: Sequence[Stage]) -> list[str]:
    """Settings of ``output`` that change nothing, each once."""
    sentences: dict[str, None] = {}
    for stage in stages:
        taught = {name: models.teacher(name) for name in stage.teachers}
        sentences |= dict.fromkeys(idle_settings(stage.phase, taught))
    return list(sentences)


def _loading(config: Config) -> str:
    """What is said while models load."""
    return f"loading the student and teachers {', '.join(config.teachers) or '(none)'}"


def _note_code(
    run_dir: Path,
    registry: Registry,
    phases: Sequence[PhaseConfig],
    tried: Mapping[str, str],
) -> None:
    """Keep what the run is made with; warn of versions that are not its first's."""
    found = versions()
    before = read_json(run_dir / IDENTITY).get("versions", {})
    for change in changes(before, found):
        print(f"warning: this run goes on with {change}", file=sys.stderr)
    plugins = dict(plugin_records(registry, phases))
    remember(run_dir, versions=found, plugins=plugins, tried_plugins=dict(tried))


def _stages(
    config: Config,
    registry: Registry,
    phases: list[PhaseConfig],
    models: Models,
    data: RunData,
) -> list[Stage]:
    """The phases with the teachers they chose, seen to fit each other."""
    facts = models.facts()
    stages = [Stage(p, tuple(p.select(facts))) for p in phases]
    if config.store.read:
        stages = stored_stages(config, models, data, stages)
    for stage in stages:
        taught = {name: models.teacher(name) for name in stage.teachers}
        where = f"phase {stage.phase.name!r}"
        with named(where), during(where):
            check_phase(
                stage.phase,
                registry,
                models.student_layers,
                taught,
                models.student_tokenizer,
            )
    return stages


def _run(run: RunContext, arms: Arms, started: float) -> None:
    """Train every arm and tell what came of it."""
    _state(run, saved=False, finished=False)
    tell_texts(run)
    with waiting("how teachers read the texts", run.engine.is_main):
        reading = tell_reading(run)
    if run.engine.is_main:
        draw_what_meets(run, [stage.phase for stage in arms[MAIN]])
    with during("measuring before training"):
        start, teachers = starting_point(run), teachers_alone(run)
    run.progress.course = course_of(run, arms)
    try:
        results, judged = train_gated(run, arms, start)
        if run.engine.is_main:
            _export(run, arms[MAIN], kept_before(judged))
        results |= train_others(run, arms, judged)
        results = with_repeated(arms, results)
    except RunStopped:
        _state(run, saved=True, finished=False)
        raise
    if run.engine.is_main:
        facts = run.models.facts()
        summary = summarize(run.config, results, judged, start["bpc"], facts)
        for name, bpc in teachers.items():
            summary["teachers"][name]["bpc"] = bpc
        for name, found in reading.items():
            summary["teachers"][name]["reading"] = found.plain()
        routing = list(written_so_far(run.run_dir).lines("routing"))
        summary["ledger"] = ledger(results, judged, routing, teachers)
        known = read_json(run.run_dir / IDENTITY)
        summary |= {key: known[key] for key in ("versions", "plugins")}
        summary["time_s"] = round(time.monotonic() - started, 1)
        write_json(run.run_dir / "summary.json", summary)
        from experiments.report import write_report

        with waiting("drawing pictures and writing the report"):
            write_report(read_run(run.run_dir))
    _state(run, saved=True, finished=True)
    run.engine.barrier()


def _export(run: RunContext, stages: list[Stage], last: int | None) -> None:
    """Put the last student that was kept where users look for it."""
    folder = None
    if last is not None:
        folder = phase_folder(run.run_dir, MAIN, last, stages[last]) / "student"
    model = run.models.student(folder)
    run.models.save_student(model, run.run_dir / "student", last=True)


def _crowded(registry: Registry, models: Models, stages: list[Stage]) -> list[str]:
    """Sentences on teachers' layers that feed much of the student, by phase."""
    return [
        sentence
        for stage in stages
        for sentence in crowded_layers(
            stage.phase,
            registry,
            models.student_layers,
            {name: models.teacher(name) for name in stage.teachers},
        )
    ]


def _shared(models: Models, engine: Engine) -> list[str]:
    """A sentence on teachers that are split over processes."""
    if not models.sharded:
        return []
    names = ", ".join(map(repr, models.sharded))
    return [
        f"teachers {names} are split over {engine.world_size} processes, which meet in "
        "every block; train.prefetch is off"
    ]


def _state(run: RunContext, *, saved: bool, finished: bool) -> None:
    if run.engine.is_main:
        state = {"saved": saved, "finished": finished, "signal": run.stop.signal}
        run.may_write()
        write_json(run.run_dir / STATE, state)
