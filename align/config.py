"""Settings of alignment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from align.support.field_types import Count, Share, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig:
    """How teachers' KV reach the student's tokens, layers and width."""

    aligner: str = "causal_char_iou"
    """A registered aligner: char_iou, causal_char_iou, last_token, chunk_end, or a
    plugin's. The outcome pass accepts causal ones only."""
    layer_mapping_strategy: str = "ratio"
    """A registered layer map: ratio, uniform, skip, floor; cka, density,
    reconstruction, importance (read off the calibration sample); origin, of a student
    that `mtkd make` made: from its source the layers that its own were, ratio from
    others; or a plugin's."""
    layer_map: dict[str, list[Count]] = field(default_factory=dict)
    """Explicit maps, teacher name -> one teacher layer per student layer; they
    replace the strategy for these teachers."""
    adapter: str = "procrustes"
    """A registered calibration: pca, procrustes, ridge, pca-unwhitened,
    procrustes-unwhitened, or a plugin's."""
    position_means: Literal["auto", "keep", "remove"] = "auto"
    """What keys and values are at a position whatever the text, found on the
    calibration sample, is taken off them: auto, of teachers with a table of learned
    positions; keep, of none; remove, of all."""
    rope_scaling_method: str = "ntk"
    """A registered RoPE scaler: none, linear, ntk, ntk-aware, dynamic, or a
    plugin's."""
    min_coverage: Share = 0.5
    """Share of student tokens with teacher text below which the run warns. No
    coverage at all is always an error."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value that its type does not take.
        """
        check_fields(self, "align")
