"""The arms of a run: its own chain of phases, and the baselines beside it.

An arm is a list of phases, each starting from the last one's student. Every arm
reads the same samples in the same order for the same steps, so that what differs
is who taught.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from align.errors import during
from align.foreign.marker import MARKER
from align.foreign.quote import say
from align.foreign.signature import check_signed, signing_key
from experiments.config.measuring import GateConfig
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config
from experiments.evaluators.chosen import USUAL
from experiments.record.course import Course, phase_steps
from experiments.record.run_dir import (
    CE_ONLY,
    MAIN,
    SINGLE,
    WITHOUT,
    checkpoint_folder,
)
from experiments.run.context import (
    Arms,
    PhasePosition,
    ReadAgain,
    RunContext,
    Stage,
    phase_folder,
    single_stage,
    start_of,
    starts_transformed,
)
from experiments.run.gates import Judgement, describe_harm, judge, kept_before
from experiments.run.lineage import (
    check_record,
    earlier_files,
    record_of,
    write_record,
)
from experiments.run.measures.scores import check_same_scores
from experiments.run.measures.students import measure_gate, numbers
from experiments.run.phase import run_stage
from plugins.registry import Registry
from student.checkpoint import check_marked, read_complete
from student.evaluators.exits import read_exits
from teacher.capture.pair_capture import capture_of
from teacher.loading.vouched import STUDENT

Results = dict[str, list[dict[str, Any]]]
"""Per arm what its phases measured."""


def plan_arms(config: Config, stages: list[Stage]) -> dict[str, list[Stage]]:
    """The run's own chain and the baselines that were asked for, by name.

    Raises:
        ConfigError: a teacher is to be left out that no phase takes.
    """
    arms = {MAIN: stages}
    if config.baselines.ce_only:
        arms[CE_ONLY] = [Stage(stage.phase, ()) for stage in stages]
    used = list(dict.fromkeys(name for stage in stages for name in stage.teachers))
    for name in _asked(config.baselines.single_teachers, used):
        arms[f"{SINGLE}{name}"] = [single_stage(stage, name) for stage in stages]
    for name in _asked(config.baselines.leave_one_out, used):
        if name not in used:
            raise ConfigError(
                f"baselines.leave_one_out names {name!r}, which no phase takes; "
                f"they take {', '.join(used)}"
            )
        arms[f"{WITHOUT}{name}"] = [without_stage(stage, name) for stage in stages]
    return arms


def _asked(wanted: str | list[str], used: list[str]) -> list[str]:
    return {"all": used, "none": []}[wanted] if isinstance(wanted, str) else wanted


def without_stage(stage: Stage, teacher: str) -> Stage:
    """The same phase without one of its teachers; nobody takes its position."""
    left = tuple(name for name in stage.teachers if name != teacher)
    if left == stage.teachers:
        return stage
    if not left:
        return Stage(stage.phase, ())
    if len(left) == 1:
        return single_stage(stage, left[0])
    fuse, method = stage.phase.fuse, stage.phase.fuse.fusion_method
    weights = fuse.weights
    if fuse.router == "fixed":
        method, weights = "fixed", fuse.router_options["weights"]
    if weights is not None:
        shares = dict(zip(stage.teachers, weights, strict=True))
        weights = [shares[name] for name in left]
    fuse = replace(fuse, fusion_method=method, weights=weights)
    return Stage(replace(stage.phase, fuse=fuse), left)


def repeated_arms(arms: Arms) -> dict[str, str]:
    """Find arms that would train, bit for bit, what another trains already.

    With one teacher and fixed weights the run's own chain is that teacher alone; of two
    teachers, leaving one out is the other alone.

    Returns:
        Name of such an arm -> the first arm that trains the same.
    """
    first: dict[str, list[Stage]] = {}
    repeated: dict[str, str] = {}
    for arm, stages in arms.items():
        trained = [_as_trained(stage) for stage in stages]
        same = [name for name, others in first.items() if others == trained]
        if same and arm not in (MAIN, CE_ONLY):
            repeated[arm] = same[0]
        else:
            first[arm] = trained
    return repeated


def _as_trained(stage: Stage) -> Stage:
    """One teacher has all the weight, whatever its fixed share was called."""
    fixed = stage.phase.fuse.router == "fixed"
    if fixed and len(stage.teachers) == 1:
        return single_stage(stage, stage.teachers[0])
    return stage


def plan_again(arms: Arms) -> dict[tuple[str, int], ReadAgain]:
    """Who is asked again after each phase of each arm.

    Every arm reads the same samples in a phase, and arms train in their order, so what
    a teacher says in the first that asks it is what it says in all.

    Args:
        arms: those of the run, in their order; what repeats another is not trained.
    """
    again, repeated = {}, repeated_arms(arms)
    arms = {arm: stages for arm, stages in arms.items() if arm not in repeated}
    for number, (arm, stages) in enumerate(arms.items()):
        after = list(arms.values())[number + 1 :]
        for index in range(len(stages)):
            later = [stages[index + 1 :], *after]
            again[arm, index] = ReadAgain(
                phase=_teachers(others[index] for others in after),
                calibration=_teachers(chain.from_iterable(later)),
            )
    return again


def _teachers(stages: Iterable[Stage]) -> frozenset[str]:
    return frozenset(name for stage in stages for name in stage.teachers)


def course_of(run: RunContext) -> Course:
    """The steps of every arm that is trained, and which are done already."""
    at_once, samples = run.engine.samples_per_step, len(run.data.train)
    repeated = repeated_arms(run.arms)
    return Course(
        {
            (arm, index): (
                phase_steps(stage.phase.train, samples, at_once),
                len(stage.teachers),
                (phase_folder(run.run_dir, arm, index, stage) / MARKER).is_file(),
            )
            for arm, stages in run.arms.items()
            if arm not in repeated
            for index, stage in enumerate(stages)
        }
    )


def train_gated(
    run: RunContext, start: Mapping[str, Any]
) -> tuple[Results, list[Judgement]]:
    """Train the main arm and CE only phase by phase, with the gate after each.

    Args:
        run: what all arms share.
        start: ``bpc``, and ``gate_bpc`` where the gate has text of its own, of the
            student before any training.

    Returns:
        What each of the two arms measured, see :func:`experiments.run.phase.run_stage`,
        and what the gate made of every phase of the main arm.

    Raises:
        RunStopped: asked to stop; a checkpoint was written.
    """
    pair = {arm: run.arms[arm] for arm in (MAIN, CE_ONLY) if arm in run.arms}
    results: Results = {arm: [] for arm in pair}
    judged: list[Judgement] = []
    for index, stage in enumerate(run.arms[MAIN]):
        for arm, stages in pair.items():
            results[arm].append(run_phase(run, arm, stages, index, judged))
        judged.append(
            _judged(
                run.config.gate,
                results,
                start,
                before=kept_before(judged),
                own_text=bool(run.data.gate),
                lower=run.evaluators.metrics[run.config.gate.metric].better == "lower",
            )
        )
        _tell(run, stage, results[MAIN][index]["steps"], judged[-1])
    return results, judged


def _judged(
    gate: GateConfig,
    results: Results,
    start: Mapping[str, Any],
    *,
    before: int | None,
    own_text: bool,
    lower: bool,
) -> Judgement:
    """Judge the main arm's last phase, which started from the phase ``before``."""

    def said(result: Mapping[str, Any]) -> Mapping[str, float]:
        return numbers(result, gate.metric, own_text)

    references = {
        "ce_only": said(results[CE_ONLY][-1]) if CE_ONLY in results else None,
        "before": said(start if before is None else results[MAIN][before]),
    }
    return judge(said(results[MAIN][-1]), references, gate, own_text, lower)


def _tell(run: RunContext, stage: Stage, steps: int, judgement: Judgement) -> None:
    verdict = judgement.plain()
    line = {"kind": "gate", "step": steps, **verdict}
    run.metrics.write_once(MAIN, stage.phase.name, line)
    if judgement.harms and run.engine.is_main:
        done = "was rolled back" if judgement.rolled_back else "hurt"
        said = f"warning: phase {stage.phase.name} {done}: {describe_harm(verdict)}"
        say(said)


def train_others(run: RunContext, judged: Sequence[Judgement]) -> Results:
    """Train the other baselines, which roll back what the main arm rolled back.

    Arms of :func:`repeated_arms` are left out; see :func:`with_repeated`.

    Raises:
        RunStopped: asked to stop; a checkpoint was written.
    """
    known = {MAIN, CE_ONLY} | repeated_arms(run.arms).keys()
    return {
        arm: [
            run_phase(run, arm, stages, index, judged[:index])
            for index in range(len(stages))
        ]
        for arm, stages in run.arms.items()
        if arm not in known
    }


def with_repeated(arms: Arms, results: Results) -> Results:
    """The results of all arms, in order, those of repeated ones copied."""
    repeated = repeated_arms(arms)
    return {arm: results[repeated.get(arm, arm)] for arm in arms}


def run_phase(
    run: RunContext,
    arm: str,
    stages: Sequence[Stage],
    index: int,
    judged: Sequence[Judgement],
) -> dict[str, Any]:
    """Train one phase of an arm, unless it is complete already.

    Args:
        run: what all arms share.
        arm: its name.
        stages: all its phases.
        index: of the phase to train.
        judged: the phases before it; it starts from the last that was kept.

    Raises:
        ConfigError: what is complete was trained after other phases than these.
        RunStopped: asked to stop; a checkpoint was written.
    """
    at_once, samples = run.engine.samples_per_step, len(run.data.train)
    steps = [phase_steps(stage.phase.train, samples, at_once) for stage in stages]
    folder = phase_folder(run.run_dir, arm, index, stages[index])
    pairs = zip(stages, judged, strict=False)
    kept = [s.phase.name for s, judgement in pairs if not judgement.rolled_back]
    start = start_of(run, arm, stages[: index + 1], kept)
    files = {**run.files, **earlier_files(run, stages[index], start)}
    stages_so_far = stages[: index + 1]
    record = record_of(run.config, stages_so_far, run.texts, run.registry, files=files)
    record |= {"rolled_back": _rolled_back(stages, judged)}
    check_record(folder, record, run.changed_plugins)
    gated = arm in (MAIN, CE_ONLY)
    state = read_complete(folder)
    if state is not None:
        check_same_scores(run.run_dir, arm, stages[index], index, state)
        if run.engine.is_main:  # left by a kill right after the phase was whole
            shutil.rmtree(checkpoint_folder(folder), ignore_errors=True)
        known = "gate_bpc" if run.config.gate.metric == USUAL else "gate_metrics"
        if gated and run.data.gate and known not in state:
            model = run.models.student(folder / "student").to(run.engine.device)
            title = f"measuring {arm} · {stages[index].phase.name}"
            exits = read_exits(folder / "student")
            state |= measure_gate(run, capture_of(model), model, title, exits)
        return state
    if run.engine.is_main:
        if sentence := starts_transformed(start, stages[:index]):
            say(f"warning: {sentence}")
        write_record(folder, record)
    # What a phase that was rolled back has read is not read again.
    offset = sum(steps[:index])
    first_sample = offset * at_once
    position = PhasePosition(
        arm=arm,
        index=index,
        folder=folder,
        start=start,
        steps=steps[index],
        offset=offset,
        first_sample=first_sample,
        gated=gated,
    )
    with during(f"phase {stages[index].phase.name!r} of arm {arm!r}"):
        result = run_stage(run, stages[index], position)
    return run.engine.from_main(lambda: result)  # of one mind at the gate


def _rolled_back(
    stages: Sequence[Stage], judged: Sequence[Judgement]
) -> list[str] | None:
    """The phases which a later one does not build on, where there are any."""
    pairs = zip(stages, judged, strict=False)
    names = [stage.phase.name for stage, judgement in pairs if judgement.rolled_back]
    return names or None


def check_arm(
    run_dir: Path,
    arm: str,
    *,
    config: Config,
    stages: Sequence[Stage],
    texts: Mapping[str, str],
    files: Mapping[str, Mapping[str, str]],
    registry: Registry,
    changed_plugins: bool = False,
) -> None:
    """See, before any work, that what an arm has finished belongs to this config.

    Raises:
        ConfigError: a finished or started phase was trained with other settings, or,
            unless ``changed_plugins``, with other code.
        CheckpointError: a finished phase is damaged, or read its texts by scores that
            have changed.
    """
    for index, stage in enumerate(stages):
        folder = phase_folder(run_dir, arm, index, stage)
        record = record_of(config, stages[: index + 1], texts, registry, files=files)
        check_record(folder, record, changed_plugins)
        check_marked(folder, holding=STUDENT)
        state = read_complete(folder, digests=True)
        check_same_scores(run_dir, arm, stage, index, state or {})


def check_finished(run_dir: Path, arms: Arms, trust: bool) -> None:
    """Refuse what is finished, and whole, and was not written by this account.

    Raises:
        UnsignedError: a phase is not signed with this account's key; not if ``trust``.
        InputError: the key cannot be used.
    """
    signing_key()  # made now: without one the run would end at its first checkpoint
    for arm, stages in arms.items():
        for index, stage in enumerate(stages):
            folder = phase_folder(run_dir, arm, index, stage)
            if (folder / MARKER).is_file():
                check_signed(folder, trust)
