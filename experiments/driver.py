"""Run a whole job: phases, baselines, measurements, report."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.alignment_figures import draw_what_meets
from experiments.arms import (
    Arms,
    check_arm,
    phase_folder,
    plan_arms,
    train_gated,
    train_others,
)
from experiments.config import (
    Config,
    PhaseConfig,
    hidden_settings,
    resolve_phases,
    save_config,
)
from experiments.data import Encoder, load_data
from experiments.evaluation import evaluate, measure_gate
from experiments.extraction.stages import stored_stages
from experiments.gates import kept_before
from experiments.history import (
    STATE,
    forget_launches,
    identify,
    note_end,
    note_start,
    read_json,
    samples_per_step,
    write_json,
)
from experiments.lease import Lease, LeaseLostError, hold_run
from experiments.ledger import ledger
from experiments.lineage import text_digests
from experiments.metrics import Metrics
from experiments.models import ZOO, Models
from experiments.place import named
from experiments.presets import load_registry, presets_of
from experiments.progress import Progress
from experiments.reading import Reading, how_teachers_read
from experiments.run_dir import MAIN, read_run
from experiments.settings import ConfigError
from experiments.stage import Bench, RunStopped, Stage
from experiments.stop import StopRequest, stop_on_signals
from experiments.summary import summarize
from experiments.teaching import check_phase
from plugins.registry import Registry
from student.config import TrainConfig
from student.engine import Engine
from student.launch import launched_world
from teacher.capture import KVCapture

RESUME = ("auto", "never", "must")


def run_training(
    config: Config,
    *,
    registry: Registry | None = None,
    resume: str = "auto",
    engine: Engine | None = None,
    trust: bool = False,
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

    Returns:
        The run directory.

    Raises:
        ConfigError: the config cannot be run, or the directory belongs to another.
        ValueError: a model, file or tokenizer cannot be used.
        RunStopped: asked to stop; saved.
    """
    registry = registry or load_registry(config)
    phases = resolve_phases(config, presets_of(registry))
    _same_engine([p.train for p in phases])
    _same_rotation(config, phases)
    _check_quantised(config, phases[0].train)
    _check_names(phases, registry)
    run_dir = config.run_dir
    _claim(config, run_dir, resume)
    started = time.monotonic()
    with hold_run(run_dir) as lease, _noted(run_dir, lease):
        own = engine is None
        train = phases[0].train
        engine = engine or Engine(train, samples_per_step(run_dir, train))
        try:
            # Before signals are only noted: an interrupt ends this at once, and what
            # is built is kept.
            _build_zoo(config, engine)
            with stop_on_signals() as stop:
                launch = Launch(engine, stop, lease, trust, started)
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
    started: float
    """By the monotonic clock."""

    def may_write(self) -> None:
        """See that the run is still this launch's."""
        if self.lease is not None:
            self.lease.check()


@contextmanager
def _noted(run_dir: Path, lease: Lease | None) -> Iterator[None]:
    """Write down that this launch began, and how it ended."""
    if lease is None:
        yield
        return
    note_start(run_dir, launched_world())
    try:
        yield
    except LeaseLostError:
        raise  # the successor writes here now
    except RunStopped as stopped:
        asked = read_json(run_dir / STATE).get("signal")
        note_end(run_dir, "stopped", f"{asked}, {stopped}")
        raise
    except BaseException as error:
        if (run_dir / "config.yaml").is_file():
            note_end(run_dir, "failed", str(error) or type(error).__name__)
        else:  # refused before there was a run
            forget_launches(run_dir)
        raise
    note_end(run_dir, "finished")


def _open_and_run(
    config: Config,
    registry: Registry,
    phases: list[PhaseConfig],
    launch: Launch,
) -> None:
    """Load models and texts, check all that can be checked before work, and work."""
    run_dir, engine = config.run_dir, launch.engine
    models = Models(config, engine.device)
    gated = config.gate.action == "rollback"
    data = load_data(config.data, models.encode, config.run.seed, gated)
    scaler = registry.get("rope_scaler", config.align.rope_scaling_method)
    models.fit_lengths([*data.train, *data.eval, *data.calibration], scaler)
    facts = models.facts()
    stages = [Stage(p, tuple(p.select(facts))) for p in phases]
    if config.store.read:
        stages = stored_stages(config, models, data, stages)
    for stage in stages:
        taught = {name: models.teacher(name) for name in stage.teachers}
        with named(f"phase {stage.phase.name!r}"):
            check_phase(
                stage.phase,
                registry,
                models.student_layers,
                taught,
                models.student_tokenizer,
            )
    arms, texts = plan_arms(config, stages), text_digests(data)
    for arm, own_stages in arms.items():
        check_arm(run_dir, arm, config, own_stages, texts)
    if engine.is_main:
        for sentence in [
            *hidden_settings(config, presets_of(registry)),
            *models.left_out(),
            *_shared(models, engine),
            *data.warnings,
        ]:
            print(f"warning: {sentence}", file=sys.stderr)
        _check_disk(run_dir, models.student_bytes, len(arms) * len(stages))
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / "config.yaml")
    shared = engine.samples_per_step
    identity = engine.from_main(lambda: identify(run_dir, phases[0].train, shared))
    metrics, progress = Metrics(run_dir, engine.is_main), Progress(engine.is_main)
    bench = Bench(
        config,
        registry,
        engine,
        models,
        data,
        texts,
        metrics,
        progress,
        launch.stop,
        run_dir,
        identity["id"],
        launch.trust,
        launch.may_write,
    )
    try:
        _run(bench, arms, launch.started)
    finally:
        metrics.close()


def _run(bench: Bench, arms: Arms, started: float) -> None:
    _state(bench, saved=False, finished=False)
    reading = _reading(bench)
    if bench.engine.is_main:
        draw_what_meets(bench, [stage.phase for stage in arms[MAIN]])
    start, teachers = _starting_point(bench), _teachers_alone(bench)
    try:
        results, judged = train_gated(bench, arms, start)
        if bench.engine.is_main:
            _export(bench, arms[MAIN], kept_before(judged))
        results |= train_others(bench, arms, judged)
    except RunStopped:
        _state(bench, saved=True, finished=False)
        raise
    if bench.engine.is_main:
        spent = time.monotonic() - started
        facts = bench.models.facts()
        summary = summarize(bench.config, results, judged, start["bpc"], facts)
        for name, bpc in teachers.items():
            summary["teachers"][name]["bpc"] = bpc
        routing = list(read_run(bench.run_dir).lines("routing"))
        summary["ledger"] = ledger(results, judged, routing, teachers)
        for name, found in reading.items():
            summary["teachers"][name]["reading"] = found.plain()
        summary["time_s"] = round(spent, 1)
        write_json(bench.run_dir / "summary.json", summary)
        from experiments.report import write_report

        write_report(read_run(bench.run_dir))
    _state(bench, saved=True, finished=True)
    bench.engine.barrier()


def _reading(bench: Bench) -> dict[str, Reading]:
    """How the teachers' tokenizers read the texts; loud where they do badly."""
    align = bench.config.align
    tokenizers = {
        name: bench.models.teacher(name)[0].tokenizer for name in bench.config.teachers
    }
    aligner = bench.registry.get("aligner", align.aligner)()
    found = how_teachers_read(
        bench.data.calibration, bench.models.encode, tokenizers, aligner
    )
    if bench.engine.is_main:
        for name, reading in found.items():
            alarm = reading.alarm(name, align.min_coverage)
            print(f"warning: {alarm}" if alarm else reading.line(name), file=sys.stderr)
            line = {"kind": "reading", "step": 0, "teacher": name, **reading.plain()}
            bench.metrics.write_once(MAIN, bench.config.phases[0], line)
            if alarm:
                event = {"kind": "event", "step": 0, "event": alarm}
                bench.metrics.write_once(MAIN, bench.config.phases[0], event)
    return found


def _starting_point(bench: Bench) -> dict[str, dict[str, float]]:
    """What is measured of the student before any training."""
    capture = KVCapture(bench.models.student(None).to(bench.engine.device))
    title = "measuring the untrained student"
    bpc = evaluate(bench, capture, title)
    found = {"bpc": bench.engine.from_main(lambda: bpc)}
    return found | measure_gate(bench, capture, title)


def _teachers_alone(bench: Bench) -> dict[str, dict[str, float]]:
    """Every decoder teacher's own held-out bits per character."""
    found = {}
    for name in bench.config.teachers:
        loaded, capture = bench.models.teacher(name)
        if capture.causal and capture.has_logits:
            encode = Encoder(loaded.tokenizer, None)
            found[name] = evaluate(bench, capture, f"measuring {name}", encode)
    return found


def _export(bench: Bench, stages: list[Stage], last: int | None) -> None:
    """Put the last student that was kept where users look for it."""
    folder = None
    if last is not None:
        folder = phase_folder(bench.run_dir, MAIN, last, stages[last]) / "student"
    model = bench.models.student(folder)
    bench.models.save_student(model, bench.run_dir / "student")


def _same_engine(trains: list[Any]) -> None:
    """One process has one engine: what it is made of cannot change by phase."""
    fields = (
        "engine zero_stage optimizer batch_size grad_accum fp16 threads max_grad_norm"
    )
    for name in fields.split():
        values = {getattr(train, name) for train in trains}
        if len(values) > 1:
            raise ConfigError(
                f"train.{name} differs between phases ({sorted(map(str, values))}); "
                "it belongs to the whole run: set it under train or phase.all.train"
            )


def _same_rotation(config: Config, phases: list[PhaseConfig]) -> None:
    """Teachers are loaded once, so how far they may read is the whole run's choice."""
    for phase in phases:
        if phase.align.rope_scaling_method != config.align.rope_scaling_method:
            raise ConfigError(
                f"phase {phase.name!r} sets align.rope_scaling_method to "
                f"{phase.align.rope_scaling_method!r}, the run to "
                f"{config.align.rope_scaling_method!r}; set it under align, for all"
            )


def _shared(models: Models, engine: Engine) -> list[str]:
    """A sentence on teachers that are split over processes."""
    if not models.sharded:
        return []
    names = ", ".join(map(repr, models.sharded))
    return [
        f"teachers {names} are split over {engine.world_size} processes, which meet in "
        "every block; train.prefetch is off"
    ]


def _check_quantised(config: Config, train: TrainConfig) -> None:
    """ZeRO 3 would take the bytes of quantised weights for numbers to part."""
    splits = train.engine == "deepspeed" and train.zero_stage == 3
    if splits and config.student.quantise != "none":
        raise ConfigError(
            f"student.quantise={config.student.quantise} does not go with "
            "train.zero_stage=3, which parts weights that are numbers; set "
            "train.zero_stage=2 or less: a quantised student is small, and what is "
            "trained of it smaller still"
        )


def _check_names(phases: list[Any], registry: Registry) -> None:
    """Look every name up before a model is loaded."""
    from student.objective import term_weights

    for phase in phases:
        registry.get("aligner", phase.align.aligner)
        registry.get("layer_map", phase.align.layer_mapping_strategy)
        registry.get("adapter", phase.align.adapter)
        registry.get("rope_scaler", phase.align.rope_scaling_method)
        if phase.fuse.router is not None:
            registry.get("router", phase.fuse.router)
        registry.get("temperature", phase.output.temperature_rule)
        for name in term_weights(phase.loss, phase.output):
            registry.get("objective", name)


def _claim(config: Config, run_dir: Path, resume: str) -> None:
    if resume not in RESUME:
        raise ConfigError(f"resume is {resume!r}; give one of {', '.join(RESUME)}")
    before = run_dir / "config.yaml"
    if not before.is_file():
        if resume == "must":
            raise ConfigError(
                f"--resume must: there is no run in {run_dir} to continue; check "
                "run.dir and run.name"
            )
        return
    if resume == "never":
        raise ConfigError(
            f"{run_dir} holds a run already; choose another run.name, or --resume "
            "auto to continue it"
        )


def _check_disk(run_dir: Path, student_bytes: int, phases: int) -> None:
    """Students of every phase, and one checkpoint with optimiser state."""
    needed = student_bytes * (phases + 1) + 6 * student_bytes
    folder = next(p for p in (run_dir, *run_dir.resolve().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"the run writes about {needed / 2**20:.0f} MiB under {run_dir}, but "
            f"{free / 2**20:.0f} MiB are free; free some space or set run.dir to "
            "another disk"
        )


def _build_zoo(config: Config, engine: Engine) -> None:
    """Build the embedded models that are named and not cached."""
    named = [config.student.model, *(t.model for t in config.teachers.values())]
    wanted = [name.removeprefix(ZOO) for name in named if name.startswith(ZOO)]
    if not wanted or not engine.is_main:
        engine.barrier()
        return
    from teacher.zoo import build_zoo

    by_scale: dict[str, list[str]] = {}
    for name in wanted:
        scale, _, model = name.rpartition("/")
        by_scale.setdefault(scale or "default", []).append(model)
    threads = torch.get_num_threads()
    for scale, names in by_scale.items():
        build_zoo(names, scale=scale)
    torch.set_num_threads(threads)
    engine.barrier()


def _state(bench: Bench, *, saved: bool, finished: bool) -> None:
    if bench.engine.is_main:
        state = {"saved": saved, "finished": finished, "signal": bench.stop.signal}
        bench.may_write()
        write_json(bench.run_dir / STATE, state)
