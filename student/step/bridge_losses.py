"""What the bridge's own modules are trained by beside the outcome."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from align.schedules import Timetable
from align.views import Captured, with_kv
from student.bridges.base import Bridge
from student.step.records import PassInputs


def bridge_losses(
    bridge: Bridge, captured: Captured, inputs: PassInputs, timetable: Timetable
) -> dict[str, Tensor]:
    """Losses of the bridge's own modules.

    Args:
        bridge: of the teachers that bring keys and values.
        captured: the student, seen from inside, with all its layers.
        inputs: of the pass.
        timetable: what settings are at a step.

    Returns:
        Scalars with their weights, by name.
    """
    share = inputs.share
    if share is not None:
        share = replace(share, places=share.places.met)
    losses = dict(bridge.auxiliary(captured.kv, with_kv(inputs.views), share))
    for name, (place, setting) in bridge.auxiliary_weights.items():
        if name in losses:
            weight = timetable.value(setting, place, inputs.step)
            losses[name] = weight * losses[name]
    return losses
