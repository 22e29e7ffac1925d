"""Run a whole job: its arms trained, measured and summed up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.errors import during
from align.foreign.quote import say
from experiments.config.presets import load_registry
from experiments.config.tree import Config
from experiments.evaluators.asked import plain_metrics
from experiments.record.history import IDENTITY, STATE, read_json, write_json
from experiments.record.progress import waiting
from experiments.record.run_dir import MAIN, SUMMARY, written_so_far
from experiments.record.stop import RunStopped
from experiments.run.arms import (
    Results,
    course_of,
    train_gated,
    train_others,
    with_repeated,
)
from experiments.run.context import RunContext, phase_folder
from experiments.run.coverage import Reading, tell_left_out, tell_reading, tell_texts
from experiments.run.evaluation import teachers_alone, tell_routing_room
from experiments.run.gates import Judgement, kept_before
from experiments.run.ledger import ledger
from experiments.run.measures.students import measure_teachers, starting_point
from experiments.run.opening import open_run
from experiments.run.phase import LAST
from experiments.run.plan import parted, plan_run
from experiments.run.summary import summarize
from experiments.writing.samples import samples_of
from plugins.registry import Registry
from student.evaluators.exits import read_exits
from student.loop.engine import Engine


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a run measured."""

    start: Mapping[str, Any]
    """Of the student before any training."""
    teachers: Mapping[str, Mapping[str, float]]
    """Bits per character by domain of every teacher that predicts."""
    measured: Mapping[str, Any]
    """What evaluators say of teachers, see
    :func:`experiments.run.measures.students.measure_teachers`."""
    reading: Mapping[str, Reading]
    """How every teacher's tokenizer reads the texts."""
    room: Mapping[str, Any]
    """What a router could gain, see :mod:`experiments.routing_room.read`."""
    results: Results
    """Of every arm's phases."""
    judged: Sequence[Judgement]
    """Of every phase of the main arm."""


def run_training(
    config: Config,
    *,
    registry: Registry | None = None,
    resume: str = "auto",
    engine: Engine | None = None,
    trust: bool = False,
    changed_plugins: bool = False,
) -> Path:
    """Train through all phases and baselines, and sum up what came of it.

    What is complete already is not done again, so the same call continues a run
    that was stopped or killed. :func:`experiments.write_report` writes its report.

    Args:
        config: the run.
        registry: plugins; None loads the built-in and the installed ones.
        resume: ``auto`` continues a run or starts one, ``never`` refuses an existing
            run, ``must`` refuses to start a new one. Settings may have changed where
            nothing finished depends on them.
        engine: shared by several runs of one process; None makes one.
        trust: take up phases and checkpoints that this account did not write, or that
            another run did.
        changed_plugins: go on where the code of a plugin in use has changed.

    Returns:
        The run directory.

    Raises:
        ConfigError: the config cannot be run, or the directory belongs to another.
        PluginError: a plugin in use does not keep its contract.
        ValueError: a model, file or tokenizer cannot be used.
        RunStopped: asked to stop; saved.
    """
    plan = plan_run(config, registry or load_registry(config), resume)
    with parted(plan) as mine:
        if mine is None:
            return config.run_dir
        with open_run(
            mine, engine=engine, trust=trust, changed_plugins=changed_plugins
        ) as run:
            sum_up(run, train_arms(run))
    return config.run_dir


def train_arms(run: RunContext) -> Outcome:
    """Train every arm, measuring before, between and after.

    Args:
        run: see :func:`experiments.run.opening.open_run`.

    Raises:
        RunStopped: asked to stop; a checkpoint was written.
    """
    _note_state(run, saved=False, finished=False)
    tell_texts(run)
    tell_left_out(run)
    with waiting("how teachers read the texts", run.engine.is_main):
        reading = tell_reading(run)
    try:
        with during("measuring before training"):
            start, teachers = starting_point(run), teachers_alone(run)
            measured = measure_teachers(run)
            room = tell_routing_room(run)
        run.progress.course = course_of(run)
        results, judged = train_gated(run, start)
        if run.engine.is_main:
            _export(run, kept_before(judged))
        results |= train_others(run, judged)
    except RunStopped:
        _note_state(run, saved=True, finished=False)
        raise
    return Outcome(
        start=start,
        teachers=teachers,
        measured=measured,
        reading=reading,
        room=room,
        results=with_repeated(run.arms, results),
        judged=judged,
    )


def sum_up(run: RunContext, outcome: Outcome) -> None:
    """Write ``summary.json``, and that the run is finished."""
    if run.engine.is_main:
        temperature = run.config.samples.temperature
        samples = _samples(run)
        done = sum(result["steps"] for result in outcome.results[MAIN])
        for number, sample in enumerate(samples, start=1):
            texts = {f"{number}/{k}": v for k, v in sample.items()}
            run.metrics.write_texts(texts, MAIN, done)
        summary = _summary(run, outcome) | {
            "samples": samples,
            "samples_temperature": temperature,
        }
        write_json(run.run_dir / SUMMARY, summary)
    _note_state(run, saved=True, finished=True)
    run.engine.barrier()


def _summary(run: RunContext, outcome: Outcome) -> dict[str, Any]:
    summary = summarize(
        run.config,
        outcome.results,
        outcome.judged,
        outcome.start["bpc"],
        run.models.teachers,
        lower=run.evaluators.metrics[run.config.gate.metric].better == "lower",
    )
    for name, bpc in outcome.teachers.items():
        summary["teachers"][name]["bpc"] = bpc
    for name, reading in outcome.reading.items():
        summary["teachers"][name]["reading"] = reading.plain()
    summary["evaluation"] = {
        "metrics": plain_metrics(run.evaluators.metrics),
        "teachers": outcome.measured,
    }
    summary["routing_room"] = outcome.room
    written = written_so_far(run.run_dir)
    routing = list(written.lines("routing"))
    summary["ledger"] = ledger(
        outcome.results, outcome.judged, routing, outcome.teachers
    )
    choices = written.choices()
    for phase in summary["phases"]:
        if phase["name"] in choices:
            phase["choice"] = asdict(choices[phase["name"]])
    known = read_json(run.run_dir / IDENTITY)
    summary |= {key: known[key] for key in ("versions", "plugins")}
    summary["time_s"] = round(time.monotonic() - run.started, 1)
    return summary


def _samples(run: RunContext) -> list[dict[str, str]]:
    """What the first and the last student write, all training done."""

    def student(after: bool) -> Any:
        folder = run.run_dir / "student" if after else None
        return run.models.student(folder).to(run.engine.device)

    try:
        with waiting("what the student writes"):
            return samples_of(
                run.config.samples,
                run.data.eval,
                run.models.student_tokenizer,
                student,
                run.config.run.seed,
            )
    except Exception as error:  # a look at what is trained already costs no summary
        said = f"warning: the report shows nothing that the student writes: {error}"
        say(said)
        return []


def _export(run: RunContext, last: int | None) -> None:
    """Put the last student that was kept where users look for it."""
    folder = None
    if last is not None:
        stage = run.arms[MAIN][last]
        folder = phase_folder(run.run_dir, MAIN, last, stage) / "student"
    model = run.models.student(folder)
    exits = {} if folder is None else read_exits(folder)
    run.models.save_student(model, run.run_dir / "student", last=True, exits=exits)
    aside = None if folder is None else folder.parent / LAST
    if aside is not None and aside.is_dir():
        model = run.models.student(aside)
        run.models.save_student(model, run.run_dir / "student-last", last=True)


def _note_state(run: RunContext, *, saved: bool, finished: bool) -> None:
    if run.engine.is_main:
        run.may_write()
        state = {"saved": saved, "finished": finished, "signal": run.stop.signal}
        write_json(run.run_dir / STATE, state)
