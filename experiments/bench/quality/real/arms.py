"""Arms of pretrained teachers: each alone, and several together."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.bench.quality.arm import CE_ONLY, Arm
from experiments.bench.quality.deciding import ordering_arms, selecting_arms
from experiments.bench.quality.disjoint.arms import FORESEEN, NO_KV
from experiments.bench.quality.real.bed import GEMMA, MINILM, SMOLLM2
from experiments.bench.quality.zoo.agglomerative import PLAIN_OFF, terms

DECAYS = (0.01, 0.1, 1.0)
"""Weight decays of the baseline beside a run's own."""
WEIGHTS = (0.3, 3, 10)
"""Weights of the decoders' outputs beside 1, tried of one and of both alike."""
KV_WEIGHTS = (1, 4, 8)
"""And of keys, and of values, beside 2."""
RESCORE = 30
"""Steps between two scorings of a curriculum; a pretrained teacher is dear to ask."""
_PLAIN = (
    "baselines.ce_only=false",
    "baselines.single_teachers=none",
    "samples.prompts=0",
)
_PHASE = "real_multi"
_FIXED = f"phase.{_PHASE}.fuse.fusion_method=fixed"
_NO_OUTPUTS = ("phase.all.output.projected_kl=0",)


def real_arms() -> dict[str, tuple[Arm, ...]]:
    """By group: who teaches, how the baseline was tuned, selectors and curricula."""
    alone = _pupil(SMOLLM2, "all places, an even order", SMOLLM2)
    teachers, settings = (SMOLLM2,), alone.settings
    return {
        "real": (_alone(CE_ONLY, "the baseline"), alone, *_taught()),
        "tuned": tuple(_tuned()),
        "selected": selecting_arms(teachers, settings, _PHASE),
        "ordered": ordering_arms(teachers, settings, _PHASE, RESCORE),
    }


def _alone(name: str, asks: str, *settings: str) -> Arm:
    return Arm(name, asks, settings=(*_PLAIN, *settings), teachers=())


def _pupil(name: str, asks: str, *teachers: str, settings: tuple[str, ...] = ()) -> Arm:
    kinds = "kinds: [decoder, encoder]"
    part = f"phase.{_PHASE}.teachers={{min: {len(teachers)}, {kinds}}}"
    return Arm(
        name,
        asks,
        settings=(*_PLAIN, part, _FIXED, *settings),
        teachers=teachers,
        phases=(_PHASE,),
        outputs_stored=True,  # the first of its bed's TOP_K
    )


def _taught() -> Iterator[Arm]:
    yield _pupil(
        MINILM,
        "an encoder alone, its keys and values",
        MINILM,
        settings=_NO_OUTPUTS,  # it has none
    )
    yield _pupil(GEMMA, "another decoder alone", GEMMA)
    yield _pupil("both", "SmolLM2 and the encoder", SMOLLM2, MINILM)
    pair = (SMOLLM2, GEMMA)
    yield _pupil("pair", "both decoders, equal weights", *pair)
    yield _pupil("three", "all three, equal weights", *pair, MINILM)
    for name in pair:
        yield _pupil(f"{name}-out", "its outputs alone", name, settings=NO_KV)
    asks = "its keys and values alone"
    yield _pupil(f"{SMOLLM2}-kv", asks, SMOLLM2, settings=_NO_OUTPUTS)
    keys, values = (f"phase.all.loss.lambda_{side}=0" for side in ("v", "k"))
    asks = "its keys beside its outputs"
    yield _pupil(f"{SMOLLM2}-keys", asks, SMOLLM2, settings=(keys,))
    asks = "its values beside its outputs"
    yield _pupil(f"{SMOLLM2}-values", asks, SMOLLM2, settings=(values,))
    heavier = (values, "phase.all.loss.lambda_v=4")
    yield _pupil(
        f"{SMOLLM2}-values-4", f"{asks}, a weight of 4", SMOLLM2, settings=heavier
    )
    upper = (*PLAIN_OFF, *terms("linear, layers: [3, 4, 5]", sites=("values",), mse=1))
    asks = "its values on the upper half of the layers beside its outputs"
    yield _pupil(f"{SMOLLM2}-values-upper", asks, SMOLLM2, settings=upper)
    asks = "both decoders' values beside their outputs"
    yield _pupil("pair-values", asks, *pair, settings=(values,))
    asks = "both decoders' keys and values alone"
    yield _pupil("pair-kv", asks, *pair, settings=_NO_OUTPUTS)
    yield _pupil("pair-out", "both decoders' outputs alone", *pair, settings=NO_KV)
    yield _pupil(
        "pair-prequential",
        "the same, weighed by what each foresaw of the text so far",
        *pair,
        settings=(*NO_KV, FORESEEN.replace(".all.", f".{_PHASE}.")),
    )


def _tuned() -> Iterator[Arm]:
    for decay in DECAYS:
        settings = (f"train.weight_decay={decay:g}",)
        asks = f"the baseline under a weight decay of {decay:g}"
        yield _alone(f"ce-decay-{decay:g}", asks, *settings)
    for name, teachers in {SMOLLM2: (SMOLLM2,), "pair": (SMOLLM2, GEMMA)}.items():
        for weight in WEIGHTS:
            heavier = (f"phase.all.output.projected_kl={weight}",)
            asks = f"outputs of {' and '.join(teachers)}, {weight:g} times as heavy"
            yield _pupil(f"{name}-{weight:g}", asks, *teachers, settings=heavier)
        for weight in KV_WEIGHTS:
            weights = tuple(
                f"phase.all.loss.lambda_{side}={weight}" for side in ("k", "v")
            )
            asks = f"keys and values of {' and '.join(teachers)}, a weight of {weight}"
            yield _pupil(f"{name}-kv-{weight}", asks, *teachers, settings=weights)
