"""The alarms of a phase, which know how its student stood before it."""

from __future__ import annotations

from align.foreign.quote import say
from experiments.record.run_dir import MAIN
from experiments.run.alarms import Alarms
from experiments.run.context import PhasePosition, RunContext, Stage
from experiments.run.evaluation import measure_health
from student.distiller import HEALTH_TOKENS
from student.loop.data_order import Ordering, sample_indices
from teacher.capture.kv_capture import KVCapture


def alarms_of(
    run: RunContext,
    stage: Stage,
    position: PhasePosition,
    capture: KVCapture,
    *,
    order: Ordering | None,
) -> Alarms:
    """What to warn of in a phase, with the student as it stands before it.

    Args:
        run: what all arms share.
        stage: the phase.
        position: where it stands.
        capture: its student.
        order: says which texts are read.
    """
    phase, config = stage.phase, run.config
    start: dict[str, float] = {}
    if stage.teachers and config.alarms.health_every:
        size, samples = phase.train.batch_size, run.data.train
        first, rank = position.first_sample, run.engine.rank
        indices = (
            sample_indices(len(samples), config.run.seed, first, size, rank)
            if order is None
            else order.indices(range(first + rank * size, first + (rank + 1) * size))
        )
        texts = [samples[i].text for i in indices]
        start = measure_health(
            run.models.encode, run.engine.device, capture, texts, HEALTH_TOKENS
        )

    def warn(message: str) -> None:
        if position.arm == MAIN and run.engine.is_main:
            text = f"warning: phase {phase.name}: {message}"
            say(text)

    return Alarms(
        config=config.alarms,
        steps=position.steps,
        start=start,
        min_coverage=phase.align.min_coverage,
        routed=phase.fuse.router != "fixed",
        warn=warn,
    )
