"""How hard the texts of a phase are, measured once and kept beside its folder.

Every arm reads the texts in the same order, so that all go by what the run's own chain
of phases measured: its teachers, and its student as the phase began.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.foreign.signature import check_signed, sign
from align.support.digest import sha256_of
from experiments.assemble.precision import autocast_of
from experiments.record.run_dir import MAIN
from experiments.run.context import (
    PhasePosition,
    RunContext,
    Stage,
    phase_folder,
)
from experiments.scoring import ScoreKeeper, Scorer
from experiments.scoring.kept import FILE
from student.checkpoint import CheckpointError
from student.curriculum.scores import OF_TEACHERS, Scores, unknown_to_all
from teacher.capture.kv_capture import KVCapture
from teacher.output_head import vocabulary_digest

SCORES = "scores"
"""Of what a phase leaves: see :func:`scores_digests`."""


def scores_folder(run_dir: Path, stage: Stage, index: int) -> Path:
    """Where the scores of a phase lie, those of each step in a folder of its own."""
    folder = phase_folder(run_dir, MAIN, index, stage)
    return folder.with_name(f"{folder.name}.scores")


def scores_digests(run_dir: Path, stage: Stage, index: int) -> dict[str, str]:
    """SHA-256 of the scores that the texts of a phase are read by, by the folder of
    each step; empty where nothing is scored."""
    kept = sorted(scores_folder(run_dir, stage, index).glob(f"step-*/{FILE}"))
    return {file.parent.name: sha256_of(file) for file in kept}


def check_same_scores(
    run_dir: Path, arm: str, stage: Stage, index: int, state: Mapping[str, Any]
) -> None:
    """See that a finished phase read its texts by the scores that are there now.

    Those that are no longer there are not looked for.

    Args:
        run_dir: the run's.
        arm: whose phase it is.
        stage: the phase.
        index: its number in the arm.
        state: what the finished phase left; that of an earlier version does not say.

    Raises:
        CheckpointError: texts were scored anew since; names arm, phase and folder.
    """
    now, known = scores_digests(run_dir, stage, index), state.get(SCORES) or {}
    apart = [step for step, digest in known.items() if now.get(step, digest) != digest]
    if apart:
        folder = phase_folder(run_dir, arm, index, stage)
        raise CheckpointError(
            f"phase {stage.phase.name!r} of arm {arm!r} read its texts by other scores "
            f"than those in {scores_folder(run_dir, stage, index) / apart[0]}, so that "
            f"arms would not compare; delete {folder} to train it again"
        )


def phase_scores(
    run: RunContext,
    position: PhasePosition,
    capture: KVCapture,
    needs: Collection[str],
    *,
    step: int = 0,
    before: Scores | None = None,
    measure: bool = True,
) -> Scores:
    """The scores by which the texts of a phase are read from a step on.

    The run's own chain measures what is not there yet; other arms, which train after
    it, read what it has measured.

    Args:
        run: what all arms share; its texts are scored, all of them.
        position: of the phase in its arm.
        capture: the student of the phase, as it stands.
        needs: columns, see ``student.curriculum.COLUMNS``.
        step: optimiser steps of the phase that are done.
        before: the scores until now.
        measure: whether what is not there yet is measured now.

    Raises:
        InputError: nobody can say something of any text.
        CheckpointError: what is kept is damaged, or of other texts or models.
    """
    stage = run.arms[MAIN][position.index]
    folder = scores_folder(run.run_dir, stage, position.index)
    wanted = frozenset(needs)
    keeper = ScoreKeeper(
        folder=folder / f"step-{step:08d}",
        key=_key(run, position, stage, wanted, step=step),
        engine=run.engine,
        step=step,
        together=bool(run.models.sharded),
        sign=sign,
        check_signed=lambda kept: check_signed(kept, run.trust),
        progress=lambda parts: run.progress.over(
            parts, f"scoring texts for {stage.phase.name}", len(parts)
        ),
    )
    main = position.arm == MAIN
    if not main and before is not None and not keeper.folder.is_dir():
        return before  # the run's own chain has ended its phase early
    if main and measure:
        scorer = Scorer(
            encode=run.models.encode,
            student=capture,
            vocabulary=vocabulary_digest(run.models.student_tokenizer),
            teachers=run.models.chosen(stage.teachers),
            needs=wanted,
            autocast=autocast_of(stage.phase.train),
        )
        scores = keeper.scored(scorer, run.data.train)
    else:
        scores = keeper.read(run.data.train)
    _check_known(scores, wanted, stage)
    return replace(scores, before=before)


def forget_scores(run: RunContext, position: PhasePosition, done: int) -> None:
    """Remove what was measured after a step from which a phase goes on.

    The steps behind it will be taken again, and measured again.
    """
    if position.arm != MAIN:
        return
    stage = run.arms[MAIN][position.index]
    folder = scores_folder(run.run_dir, stage, position.index)

    def remove() -> None:
        for kept in folder.glob("step-*"):
            if int(kept.name.removeprefix("step-")) > done:
                shutil.rmtree(kept)

    run.engine.from_main(remove)


def _key(
    run: RunContext,
    position: PhasePosition,
    stage: Stage,
    needs: frozenset[str],
    *,
    step: int,
) -> str:
    """A digest of what scores depend on, the same in every arm."""
    asked = stage.teachers if needs & OF_TEACHERS else ()
    depends = {
        "run": run.run_id,
        "phase": [position.index, stage.phase.name],
        "step": step,
        "texts": run.texts["train"],
        "needs": sorted(needs),
        "teachers": {name: dict(run.files.get(name, {})) for name in asked},
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _check_known(scores: Scores, needs: frozenset[str], stage: Stage) -> None:
    unknown = unknown_to_all(scores, needs)
    if unknown:
        raise InputError(
            f"phase {stage.phase.name!r}: none of its teachers "
            f"({', '.join(stage.teachers) or 'it has none'}) tells {unknown[0]} of any "
            "text; it takes teachers that predict text, for teacher_entropy with their "
            "whole output at hand, for divergence of the student's vocabulary, and for "
            "disagreement two; choose another difficulty in data.curriculum"
        )
