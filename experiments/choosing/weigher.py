"""What weighs a phase's teachers: its router, with the options that settings say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from align.errors import InputError
from align.schedules import start_of
from fuse.config import FuseConfig
from fuse.routers.router import learns, needs_sample
from fuse.routers.similarity import RoutingSample
from fuse.weigher import Weigher
from plugins.registry import Registry
from student.bridges.calibrate import CalibrationReport
from teacher.capture.kv_capture import KVCapture
from teacher.teacher_config import TeacherConfig


def build_weigher(
    fuse: FuseConfig,
    *,
    registry: Registry,
    student: KVCapture,
    names: Sequence[str],
    shares: Mapping[str, float],
    report: CalibrationReport,
) -> Weigher:
    """What gives every token its weights over the teachers."""
    build = registry.guarded("router", fuse.router)
    sample = RoutingSample(hidden=report.hidden, bits=report.bits)
    options = router_options(fuse, {name: shares[name] for name in names})

    def router() -> nn.Module:
        made: Any = build(student.hidden_size, len(names), **options)
        if needs_sample(build):
            made.fit(sample)
        return made

    if not learns(build):  # then there is one, as it is
        return Weigher.of(fuse, router())
    by_layer = [router() for _ in range(student.num_layers * fuse.routing_per_layer)]
    return Weigher.of(fuse, by_layer or router(), start_of(fuse.temperature))


def router_options(fuse: FuseConfig, shares: Mapping[str, float]) -> dict[str, Any]:
    """What a phase's router is built with beside sizes.

    Raises:
        InputError: fixed weights are not one a teacher.
    """
    options = fuse.router_options
    weights = {"weights": fixed_weights(fuse, shares)} if fuse.router == "fixed" else {}
    return options | weights


def fixed_weights(fuse: FuseConfig, shares: Mapping[str, float]) -> list[float]:
    """Fixed fusion's weights: ``fuse.weights``, or the teachers' own shares.

    Raises:
        ValueError: not one weight each, or the teachers' own are all 0.
    """
    weights = fuse.router_options["weights"] or list(shares.values())
    if shares and not any(weights):
        places = ", ".join(f"teachers.{name}.weight" for name in shares)
        raise InputError(
            f"{places}: all 0, which leaves no teacher a share of the phase; give at "
            "least one a weight > 0"
        )
    if len(weights) != len(shares):
        raise InputError(
            f"fuse.weights has {len(weights)} entries for the teachers "
            f"{', '.join(shares)}; give one weight each"
        )
    return weights


def shares_of(
    names: Iterable[str], known: Mapping[str, TeacherConfig]
) -> dict[str, float]:
    """Teachers' own fixed weights, ``teachers.NAME.weight``.

    Args:
        names: of a phase's teachers.
        known: the config's; not among them is the one that a fused store makes of all.
    """
    return {name: known[name].weight if name in known else 1.0 for name in names}
