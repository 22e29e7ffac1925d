"""Arms whose teachers come from the student: its past, its average, and beside it.

One student each, trained for as long as the whole arm takes, is what they are held
against: see the columns at equal time of :mod:`experiments.bench.quality.curves`.
"""

from __future__ import annotations

from experiments.bench.quality.arm import Arm
from experiments.bench.quality.disjoint.arms import KD, NO_KV

GENERATIONS = ("first", "second", "third")
"""Phases, each of the steps of an arm, in which the student begins anew."""
LONGEST = "ce-6"
_ANEW = ("phase.all.like=single", "phase.all.begins=anew")
_OUTPUTS = ("phase.all.output.projected_kl=1",)
_WRITTEN = ("data.written.by=student", "data.written.every=8")
_REST = "{use: match, site: logits, distance: mse, weight: 0.1}"


def _alone(times: int) -> Arm:
    return Arm(
        f"ce-{times}",
        f"cross-entropy alone for {times} times the steps",
        teachers=(),
        stretch=times,
    )


def _generations(name: str, asks: str, *settings: str) -> Arm:
    return Arm(
        name,
        asks,
        settings=(*NO_KV, *KD, *_ANEW, *settings),
        teachers=(),
        phases=GENERATIONS,
        stretch=len(GENERATIONS),
    )


def _beside(name: str, asks: str, teacher: str) -> Arm:
    return Arm(
        name,
        asks,
        settings=(*NO_KV, *KD, f"teachers.me={teacher}"),
        teachers=(),
        phases=("single",),
    )


PAST = (
    _alone(2),
    _alone(3),
    _alone(6),
    _generations(
        "born-again",
        "three generations, each taught by the one before",
        'teachers.before.model="phase:-1"',
    ),
    _generations(
        "ensemble-equal",
        "three, each taught by all before, equal weights",
        'teachers.before.model="phase:*"',
    ),
    _generations(
        "ensemble-performance",
        "the same, weighed by what they need on held-out text",
        'teachers.before={model: "phase:*", options: {weights: performance}}',
    ),
    _generations(
        "ensemble-learned",
        "the same, weighed by a router that learns",
        'teachers.one.model="phase:first"',
        'teachers.other.model="phase:second"',
        "phase.third.fuse.fusion_method=learnable",
    ),
    Arm(
        "residual",
        f"three that each learn what those before leave of {LONGEST}",
        settings=(*NO_KV, *_ANEW, f"phase.all.loss.terms.rest={_REST}"),
        teachers=(LONGEST,),
        phases=GENERATIONS,
        stretch=len(GENERATIONS),
        pupils=True,
        rest=True,
    ),
    _beside(
        "ema",
        "taught by the average of its own steps",
        "{model: ema, options: {decay: 0.95}}",
    ),
    _beside(
        "mutual",
        "beside another one, each taught by the other",
        '{model: "peer:zoo:student", options: {init: fresh}}',
    ),
    Arm(
        "off-policy",
        "two teachers' outputs beside keys and values, on the given text",
        settings=_OUTPUTS,
        teachers=("gpt2-prose", "qwen-code"),
    ),
    Arm(
        "on-policy",
        "the same, half of the text written by the student",
        settings=(*_OUTPUTS, *_WRITTEN),
        teachers=("gpt2-prose", "qwen-code"),
    ),
)
