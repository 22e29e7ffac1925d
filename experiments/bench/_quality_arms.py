"""The arms of the quality testbed, each a few settings over one config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

TEACHERS = ("neox-prose", "qwen-code", "gpt2-mixed")
CE_ONLY = "ce"
"""The arm that all others are compared with."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train the student."""

    name: str
    asks: str
    """The question that it answers."""
    settings: tuple[str, ...] = ()
    """Overrides of ``experiments/configs/quality.yaml``, as on the command line."""
    teachers: tuple[str, ...] = TEACHERS
    """Empty: cross-entropy alone."""
    phases: tuple[str, ...] = ("multi_basic",)
    stretch: int = 1
    """How many times the steps of the others."""


def _single(
    name: str, *settings: str, asks: str = "one teacher", label: str = ""
) -> Arm:
    weights = "phase.all.fuse.fusion_method=fixed"
    return Arm(label or name, asks, (weights, *settings), (name,))


_TWIN = "llama-twin"
"""Has the student's tokenizer."""
_NO_KV = tuple(
    f"phase.all.loss.{name}=0" for name in ("lambda_k", "lambda_v", "beta_cos")
)
_STRONG = ("phase.all.loss.lambda_k=6", "phase.all.loss.lambda_v=6")
_KEEP = "phase.all.align.position_means=keep"

_ARMS = (
    Arm(CE_ONLY, "the baseline", teachers=()),
    Arm("ce-longer", "the same computing on more steps", teachers=(), stretch=2),
    *(_single(name) for name in TEACHERS),
    Arm("specialists", "one teacher a domain, equal weights", teachers=TEACHERS[:2]),
    Arm("fixed", "several teachers, equal weights"),
    _single(_TWIN, asks="a teacher with the student's tokenizer"),
    _single(
        _TWIN,
        *_NO_KV,
        "phase.all.output.kd=1",
        asks="its next-token distributions alone",
        label="logits",
    ),
    _single(
        _TWIN,
        "phase.all.output.kd=1",
        asks="its distributions and KV",
        label="logits-kv",
    ),
    Arm(
        "likelihood",
        "text likelihood beside KV, one teacher a domain",
        ("phase.all.output.likelihood=1",),
        TEACHERS[:2],
    ),
    Arm("fixed-strong", "distances three times as heavy", _STRONG),
    Arm("similarity", "routed by prototypes", phases=("real_multi",)),
    Arm("routed", "routed by a learned router", phases=("routing",)),
    Arm(
        "routed-sample",
        "one weighting a text",
        ("phase.all.fuse.routing_level=sample",),
        phases=("routing",),
    ),
    Arm(
        "specialized",
        "rewarding few teachers a token",
        ("phase.all.fuse.entropy_target=specialized",),
        phases=("routing",),
    ),
    Arm("z", "a shared latent", phases=("z_space",)),
    Arm(
        "student-space",
        "tensors averaged, not losses",
        ("phase.all.fuse.space=student",),
    ),
    Arm("iou", "plain alignment", ("phase.all.align.aligner=char_iou",)),
    Arm("last-token", "the last token read", ("phase.all.align.aligner=last_token",)),
    Arm("keys", "keys alone", ("phase.all.loss.lambda_v=0",)),
    Arm("values", "values alone", ("phase.all.loss.lambda_k=0",)),
    Arm(
        "relations",
        "relations in place of distances",
        (
            "phase.all.loss.lambda_k=0",
            "phase.all.loss.lambda_v=0",
            "phase.all.loss.relation_k=1",
            "phase.all.loss.relation_v=1",
        ),
    ),
    _single(
        "gpt2-mixed",
        _KEEP,
        asks="learned positions left in",
        label="gpt2-mixed-positions",
    ),
    Arm("positions", "learned positions left in", (_KEEP,)),
)
ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in _ARMS})
"""Every arm by name, baselines first."""
