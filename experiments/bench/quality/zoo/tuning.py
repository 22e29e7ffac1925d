"""Arms that tune the student without a teacher, what every other arm is held against.

Each differs from the baseline in one setting. Several ``--steps`` show which of them a
longer run would want: a weight decay that costs bits early may save them once the text
is known by heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from experiments.bench.quality.arm import Arm

MATRICES = (0.01, 0.04)
"""Muon's learning rates beside the baseline's 0.02."""
REST = (2e-3, 8e-3)
"""AdamW's, of embeddings, head and vectors, beside 4e-3."""
DECAYS = (0.01, 0.1, 1.0)
"""Weight decays beside 0.3."""
ADAMW = (4e-3, 8e-3, 16e-3)
"""Learning rates where AdamW has the matrices, too."""
SPREADS = (0.25, 0.5, 2.0, 4.0)
"""Times the standard deviation of the first weights, 0.02."""
_MORE: Mapping[str, tuple[str, str]] = {
    "tune-linear": ("train.lr_schedule=linear", "the rate falls to zero on a line"),
    "tune-constant": ("train.lr_schedule=constant", "the rate stays"),
    "tune-small-batch": ("train.batch_size=4", "half as many texts a step"),
    "tune-large-batch": ("train.batch_size=16", "twice as many"),
}


def _tuned() -> Iterator[Arm]:
    def arm(name: str, asks: str, *settings: str) -> Arm:
        return Arm(name, asks, settings=settings, teachers=())

    for rate in MATRICES:
        setting = f"train.matrix_learning_rate={rate:g}"
        yield arm(f"tune-matrices-{rate:g}", f"matrices at a rate of {rate:g}", setting)
    for rate in REST:
        setting = f"train.learning_rate={rate:g}"
        yield arm(f"tune-rest-{rate:g}", f"all else at a rate of {rate:g}", setting)
    for decay in DECAYS:
        setting = f"train.weight_decay={decay:g}"
        yield arm(f"tune-decay-{decay:g}", f"a weight decay of {decay:g}", setting)
    for name, (setting, asks) in _MORE.items():
        yield arm(name, asks, setting)
    for times in SPREADS:
        asks = f"first weights spread {times:g} times as wide"
        yield Arm(f"tune-spread-{times:g}", asks, teachers=(), spread=times)
    for rate in ADAMW:
        settings = ("train.optimizer=adamw", f"train.learning_rate={rate:g}")
        yield arm(f"tune-adamw-{rate:g}", f"AdamW alone, at {rate:g}", *settings)


TUNED = tuple(_tuned())
