"""Fit a run's phases to the store it reads."""

from __future__ import annotations

from dataclasses import replace

from experiments.assemble.data import RunData
from experiments.assemble.models import Models
from experiments.assemble.stored_teachers import FUSED, check_texts
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config
from experiments.run.arms import single_stage
from experiments.run.context import Stage


def stored_stages(
    config: Config, models: Models, data: RunData, stages: list[Stage]
) -> list[Stage]:
    """The phases as the store can teach them.

    Args:
        config: with ``store.read``.
        models: with the stores open.
        data: what the run reads.
        stages: with the teachers their rules chose.

    Raises:
        StoreError: a text of the run is not stored.
        ConfigError: a fused store and baselines with single teachers.
    """
    form = config.store.form
    if form == FUSED:
        asked = (config.baselines.single_teachers, config.baselines.leave_one_out)
        if asked != ("none", "none"):
            raise ConfigError(
                "store.form is fused: no teacher stands alone in it; set "
                "baselines.single_teachers=none and baselines.leave_one_out=none"
            )
        stages = [single_stage(stage, FUSED) for stage in stages]
    if form in ("adapted", FUSED):  # layers are the student's already
        stages = [_without_maps(stage, models) for stage in stages]
    used = dict.fromkeys(name for stage in stages for name in stage.teachers)
    sampled = max(stage.phase.train.calibration_samples for stage in stages)
    texts = [*data.train, *data.calibration[:sampled]]
    check_texts([models.stored[n] for n in used if n in models.stored], texts)
    return stages


def _without_maps(stage: Stage, models: Models) -> Stage:
    """The phase without the layer maps that the config writes for stored teachers."""
    align = stage.phase.align
    maps = {n: m for n, m in align.layer_map.items() if n in models.live}
    phase = replace(stage.phase, align=replace(align, layer_map=maps))
    return Stage(phase, stage.teachers)
