"""Which forms of storage fit which phases."""

from __future__ import annotations

from collections.abc import Sequence

from align.layer_map import needs_sample
from experiments.choosing.weigher import fixed_weights
from experiments.config.parsing import ConfigError
from experiments.extraction.context import ExtractionContext
from fuse.config import SOFT


def fused_weights(extraction: ExtractionContext, names: Sequence[str]) -> list[float]:
    """The fixed shares, which must be those of every phase.

    Raises:
        ConfigError: a phase weighs otherwise.
    """
    shares = {name: extraction.config.teachers[name].weight for name in names}
    fused = []
    for stage in extraction.stages:
        fuse = stage.phase.fuse
        if fuse.router != "fixed" or fuse.space_name != "student":
            raise ConfigError(
                f"store.form is fused, but phase {stage.phase.name!r} has "
                f"fuse.fusion_method {fuse.fusion_method} and fuse.space {fuse.space}; "
                "fused stores need fixed weights in the student's space: set "
                "phase.all.fuse.fusion_method=fixed and phase.all.fuse.space=student, "
                "or choose store.form=adapted"
            )
        if fuse.chosen != SOFT:
            raise ConfigError(
                f"store.form is fused, but phase {stage.phase.name!r} has fuse.choice: "
                f"{fuse.chosen}, and a fused store holds the mean of all teachers: set "
                "phase.all.fuse.choice=soft, or choose store.form=adapted"
            )
        if set(stage.teachers) != set(names):
            raise ConfigError(
                f"store.form is fused, but phase {stage.phase.name!r} takes the "
                f"teachers {', '.join(stage.teachers)} of {', '.join(names)}; fused "
                "stores need the same in every phase"
            )
        fused.append(fixed_weights(fuse, {n: shares[n] for n in stage.teachers}))
    if any(weights != fused[0] for weights in fused):
        raise ConfigError(
            f"store.form is fused, but the phases' fuse.weights differ ({fused}); give "
            "one, or choose store.form=adapted"
        )
    return fused[0]


def check_forms(extraction: ExtractionContext) -> None:
    """Forms on the student's tokens hold for one alignment only.

    Raises:
        ConfigError: the phases differ, or a map follows the student as it learns.
    """
    form = extraction.config.store.form
    for field in ("aligner", "layer_mapping_strategy", "layer_map", "adapter"):
        values = [getattr(stage.phase.align, field) for stage in extraction.stages]
        if any(value != values[0] for value in values):
            raise ConfigError(
                f"store.form is {form}, but align.{field} differs between phases "
                f"({values}); give one for all, or choose store.form=raw"
            )
    align = extraction.stages[0].phase.align
    if not extraction.registry.guarded("aligner", align.aligner)().causal:
        raise ConfigError(
            f"store.form is {form}, but align.aligner {align.aligner} is not causal: "
            "the outcome pass would need a second alignment; choose causal_char_iou, "
            "or store.form=raw"
        )
    if needs_sample(
        extraction.registry.guarded("layer_map", align.layer_mapping_strategy)
    ):
        raise ConfigError(
            f"store.form is {form}, but align.layer_mapping_strategy "
            f"{align.layer_mapping_strategy} follows the student as it learns; choose "
            "another, or store.form=raw"
        )
