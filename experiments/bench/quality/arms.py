"""The arms of the quality testbed, each a few settings over one config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from experiments.bench.quality.arm import (
    ADAPTED,
    CE_ONLY,
    ENCODER,
    SPECIALISTS,
    TEACHERS,
    TWIN,
    Arm,
)
from experiments.bench.quality.matching.arms import MATCHING
from experiments.bench.quality.past.arms import PAST
from experiments.bench.quality.peers.arms import PEERS
from experiments.bench.quality.zoo.agglomerative import AGGLOMERATIVE
from experiments.bench.quality.zoo.carried import CARRIED
from experiments.bench.quality.zoo.inside import INSIDE
from experiments.bench.quality.zoo.inside import TEACHER as _ASKED
from experiments.bench.quality.zoo.tuning import TUNED

_Set = tuple[str, ...]


def _single(name: str, label: str = "", asks: str = "", settings: _Set = ()) -> Arm:
    weights = "phase.all.fuse.fusion_method=fixed"
    asks = asks or f"{name} alone"
    return Arm(label or name, asks, settings=(weights, *settings), teachers=(name,))


def _loss(**weights: float) -> tuple[str, ...]:
    return tuple(f"phase.all.loss.{name}={value}" for name, value in weights.items())


_PAIR = ("phase.all.teachers.min=2",)
_ROUTED = ("routing",)
_KD = ("phase.all.output.kd=1",)
_LIKELIHOOD = ("phase.all.output.likelihood=1",)
_CURRICULUM = ("dual", "multi_basic", "real_multi", "routing", "z_space")
_KEEP = ("phase.all.align.position_means=keep",)


def _out(weight: float) -> _Set:
    return (f"phase.all.output.projected_kl={weight}",)


def _fuse(name: str, value: str) -> _Set:
    return (f"phase.all.fuse.{name}={value}",)


_OUT = _out(1)
_NO_KV = _loss(lambda_k=0, lambda_v=0, beta_cos=0)

_CORE = (
    Arm(CE_ONLY, "the baseline", teachers=()),
    Arm("ce-longer", "twice the steps in place of teachers", teachers=(), stretch=2),
    *(_single(name) for name in TEACHERS),
    Arm(
        "specialists",
        "one teacher a domain, equal weights",
        settings=(),
        teachers=SPECIALISTS,
    ),
    *(
        _single(name, f"{name}-out", f"{name} alone, its outputs beside KV", _OUT)
        for name in TEACHERS
    ),
    Arm(
        "specialists-out",
        "both specialists' outputs beside KV",
        settings=_OUT,
        teachers=SPECIALISTS,
    ),
    Arm(
        "routed-pair-out",
        "the same, a learned router",
        settings=(*_PAIR, *_OUT),
        teachers=SPECIALISTS,
        phases=_ROUTED,
    ),
    _single(
        TWIN,
        "logits",
        "next-token distributions of a teacher with the student's tokenizer, no KV",
        (*_NO_KV, *_KD),
    ),
)

_PHASES = (
    Arm(
        "routed-pair",
        "both specialists, a learned router",
        settings=_PAIR,
        teachers=SPECIALISTS,
        phases=_ROUTED,
    ),
    Arm("fixed", "three teachers, equal weights"),
    Arm("similarity", "three, routed by prototypes", phases=("real_multi",)),
    Arm("routed", "three, a learned router", phases=_ROUTED),
    Arm(
        "z",
        "four, one an encoder, a latent",
        settings=(),
        teachers=(*TEACHERS, ENCODER),
        phases=("z_space",),
    ),
    Arm(
        "curriculum",
        "all five phases, sharing the steps of one",
        teachers=(*TEACHERS, ENCODER),
        phases=_CURRICULUM,
    ),
)

_QUESTIONS = (
    _single(TWIN),
    _single(TWIN, "logits-kv", "its distributions and KV", _KD),
    Arm(
        "likelihood",
        "text likelihood beside KV",
        settings=_LIKELIHOOD,
        teachers=SPECIALISTS,
    ),
    Arm(
        "out-alone",
        "outputs without KV",
        settings=(*_NO_KV, *_OUT),
        teachers=SPECIALISTS,
    ),
    Arm("out-half", "outputs half as heavy", settings=_out(0.5), teachers=SPECIALISTS),
    Arm(
        "out-3", "outputs three times as heavy", settings=_out(3), teachers=SPECIALISTS
    ),
    Arm(
        "out-chains",
        "outputs that also tell the stretch of text that came",
        settings=(*_OUT, "phase.all.output.projected_chains=true"),
        teachers=SPECIALISTS,
    ),
    Arm(
        "out-confident",
        "outputs weighed by what each gave the token that came",
        settings=(*_OUT, "phase.all.output.weighting=cross_entropy"),
        teachers=SPECIALISTS,
    ),
    Arm(
        "out-transport",
        "transport and likelihood in place of outputs over common pieces",
        settings=("phase.all.output.hybrid_ot=1",),
        teachers=SPECIALISTS,
    ),
    Arm(
        "out-sample",
        "outputs beside KV, a learned router of whole texts",
        settings=(*_PAIR, *_OUT, *_fuse("routing_level", "sample")),
        teachers=SPECIALISTS,
        phases=_ROUTED,
    ),
    Arm("fixed-out", "three teachers' outputs beside KV", settings=_OUT),
    _single(TWIN, "twin-out", "its outputs over pieces, which are all its own", _OUT),
    Arm(
        "twin-with",
        "it and both specialists",
        settings=_OUT,
        teachers=(TWIN, *SPECIALISTS),
    ),
    Arm(
        "twin-before",
        "the same, it with eight tenths of the weight",
        settings=(*_OUT, f"teachers.{TWIN}.weight=8"),
        teachers=(TWIN, *SPECIALISTS),
    ),
    Arm("weight-1", "distances half as heavy", settings=_loss(lambda_k=1, lambda_v=1)),
    Arm("weight-4", "distances twice as heavy", settings=_loss(lambda_k=4, lambda_v=4)),
    Arm(
        "routed-gate",
        "a router of the kind gate",
        settings=_fuse("router_type", "gate"),
        phases=_ROUTED,
    ),
    Arm(
        "routed-attention",
        "a router of the kind attention",
        settings=_fuse("router_type", "attention"),
        phases=_ROUTED,
    ),
    Arm(
        "routed-sample",
        "one weighting a text",
        settings=_fuse("routing_level", "sample"),
        phases=_ROUTED,
    ),
    Arm(
        "routed-outcome",
        "a router that learns from the outcome alone",
        settings=("phase.all.loss.router_signal=outcome",),
        phases=_ROUTED,
    ),
    Arm(
        "routed-specialized",
        "rewarding few teachers a token",
        settings=(
            *_fuse("entropy_target", "specialized"),
            *_fuse("entropy_reg_strength", "1"),
        ),
        phases=_ROUTED,
    ),
    Arm(
        "student-space",
        "tensors averaged, not losses",
        settings=_fuse("space", "student"),
    ),
    Arm(
        "student-pca",
        "the same, adapters by principal components",
        settings=(*_fuse("space", "student"), "phase.all.align.adapter=pca"),
    ),
    Arm(
        "student-outcome",
        "the same, adapters also from the outcome",
        settings=(*_fuse("space", "student"), *_loss(outcome_every=4)),
    ),
    Arm("iou", "plain alignment", settings=("phase.all.align.aligner=char_iou",)),
    Arm(
        "last-token",
        "the last token read",
        settings=("phase.all.align.aligner=last_token",),
    ),
    Arm(
        "chunk-end",
        "where both specialists' and its own tokens end, and nowhere else",
        settings=("phase.all.align.aligner=chunk_end",),
        teachers=SPECIALISTS,
    ),
    Arm("keys", "keys alone", settings=_loss(lambda_v=0)),
    Arm("values", "values alone", settings=_loss(lambda_k=0)),
    Arm(
        "relations",
        "relations in place of distances",
        settings=_loss(lambda_k=0, lambda_v=0, relation_k=1, relation_v=1),
    ),
    Arm("attention", "attention beside distances", settings=_loss(gamma_kl=0.01)),
    _single("gpt2-mixed", "gpt2-mixed-positions", "learned positions left in", _KEEP),
)
_PROSE, _CODE = "gpt2-prose", "qwen-code"
_ADAPTED = (
    Arm(
        "ce-longest",
        "four times the steps, about what adapting costs",
        teachers=(),
        stretch=4,
    ),
    _single(_PROSE, f"{_PROSE}-out", f"{_PROSE} alone, its outputs beside KV", _OUT),
    Arm(
        "pair-out",
        "both specialists of the zoo, outputs beside KV",
        settings=_OUT,
        teachers=(_PROSE, _CODE),
    ),
    *(
        _single(
            name + ADAPTED,
            asks=f"{name} in the student's vocabulary, token by token beside KV",
            settings=_KD,
        )
        for name in (_PROSE, _CODE)
    ),
    Arm(
        "pair-adapted",
        "both in the student's vocabulary",
        settings=_KD,
        teachers=(_PROSE + ADAPTED, _CODE + ADAPTED),
    ),
)
_BY_NAME = {arm.name: arm for arm in _CORE}
GROUPS: Mapping[str, tuple[Arm, ...]] = MappingProxyType(
    {
        "core": _CORE,
        "phases": _PHASES,
        "questions": _QUESTIONS,
        "adapted": (_CORE[0], _BY_NAME["qwen-code-out"], *_ADAPTED),
        "inside": (_CORE[0], _BY_NAME[_ASKED], _BY_NAME[f"{_ASKED}-out"], *INSIDE),
        "carried": (_CORE[0], _BY_NAME[_ASKED], *CARRIED),
        "agglomerative": (_CORE[0], *AGGLOMERATIVE),
        "peers": (_CORE[0], *PEERS),
        "past": (_CORE[0], *PAST),
        "tuned": (_CORE[0], *TUNED),
        "matching": (_CORE[0], *MATCHING),
        "all": (
            *(*_CORE, *_PHASES, *_QUESTIONS),
            *(*_ADAPTED, *INSIDE, *CARRIED, *AGGLOMERATIVE),
            *(*PEERS, *PAST, *TUNED, *MATCHING),
        ),
    }
)
"""``core`` asks whether several teachers help, ``phases`` which way of joining them,
``questions`` about the design, ``adapted`` whether teachers that are given the
student's vocabulary teach better, ``inside`` what hidden states and attention add,
``carried`` which keys and values are worth learning, and when,
``agglomerative`` what recipes of agglomerative models bring to keys and values,
``peers`` how losses of TRL compare with ours on outputs, ``past`` what a student's own
past, average and company teach it, ``tuned`` how the baseline is trained best, and
``matching`` what more text is worth, alone and in a teacher's words (the last three
with ``--size zoo``)."""
ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in GROUPS["all"]})
"""Every arm by name, the baseline first."""


def chosen(
    names: Iterable[str], groups: Mapping[str, tuple[Arm, ...]] = GROUPS
) -> list[Arm]:
    """The arms of these names or groups, the baseline first, each once; with arms whose
    students teach."""
    wanted = {CE_ONLY}
    for name in names:
        wanted |= {arm.name for arm in groups.get(name, ())} or {name}
    for arm in groups["all"]:
        if arm.pupils and arm.name in wanted:
            wanted |= set(arm.teachers)
    return [arm for arm in groups["all"] if arm.name in wanted]
