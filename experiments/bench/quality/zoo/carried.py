"""Arms that ask which of a teacher's keys and values are worth learning, and when.

One teacher of the zoo, each change by itself: keys or values alone, how much they
weigh, weights that fade, the student's layers that learn, and the teacher's that they
read.
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.bench.quality.arm import Arm
from experiments.bench.quality.zoo.agglomerative import PLAIN_OFF, terms
from experiments.bench.quality.zoo.inside import OUT, TEACHER

WEIGHTS = (0.5, 1, 4, 8)
"""What keys, and values, weigh beside the 2 of the config of the size ``zoo``."""
LAYERS = {"lower": "[0, 1]", "upper": "[2, 3]", "last": "[-1]"}
"""Of the student's four."""
DEPTHS = {"bottom": "[0, 1, 2, 3]", "top": "[2, 3, 4, 5]"}
"""Which of the teacher's six layers the student's four read."""
MAPS = ("skip", "cka", "importance")
"""Layer maps beside ``ratio``."""
_FIXED = "phase.all.fuse.fusion_method=fixed"


def _arm(name: str, asks: str, *settings: str) -> Arm:
    return Arm(
        f"carried-{name}", asks, settings=(_FIXED, *settings), teachers=(TEACHER,)
    )


def _weights(keys: object, values: object) -> tuple[str, ...]:
    return (f"phase.all.loss.lambda_k={keys}", f"phase.all.loss.lambda_v={values}")


def _carried() -> Iterator[Arm]:
    yield _arm("keys", "keys alone", *_weights(2, 0))
    yield _arm("values", "values alone", *_weights(0, 2))
    for weight in WEIGHTS:
        asks = f"keys and values, a weight of {weight}"
        yield _arm(f"weight-{weight:g}", asks, *_weights(weight, weight))
    for weight in (1, 4):
        asks = f"values alone, a weight of {weight}"
        yield _arm(f"values-{weight}", asks, *_weights(0, weight))
    yield _arm("values-out", "values alone beside outputs", OUT, *_weights(0, 2))
    yield _arm(
        "light-out", "light keys and values beside outputs", OUT, *_weights(1, 1)
    )
    fade = "phase.all.loss.fade={from: 1, to: 0}"
    yield _arm("fading", "keys and values whose weight falls to nothing", fade)
    early = "phase.all.loss.fade={from: 1, to: 0, steps: 75}"
    yield _arm("early", "the same within the first quarter of 300 steps", early)
    falling = "{from: 4, to: 0}"
    yield _arm(
        "fading-out",
        "keys and values that fade beside outputs that stay",
        OUT,
        *_weights(falling, falling),
    )
    yield _arm(
        "match",
        "squared distance alone, as a term match: what the next three change",
        *PLAIN_OFF,
        *terms("linear", mse=1),
    )
    for name, layers in LAYERS.items():
        on = f"linear, layers: {layers}"
        asks = f"on layers {layers} of the student alone"
        yield _arm(name, asks, *PLAIN_OFF, *terms(on, mse=1))
    half = LAYERS["upper"]
    yield _arm(
        "values-upper",
        f"values alone, on layers {half} of the student",
        *PLAIN_OFF,
        *terms(f"linear, layers: {half}", sites=("values",), mse=1),
    )
    for name, layers in DEPTHS.items():
        read = f"phase.all.align.layer_map={{{TEACHER}: {layers}}}"
        yield _arm(name, f"read off layers {layers} of the teacher", read)
    for name in MAPS:
        strategy = f"phase.all.align.layer_mapping_strategy={name}"
        yield _arm(name, f"layers by the map {name}", strategy)


CARRIED = tuple(_carried())
