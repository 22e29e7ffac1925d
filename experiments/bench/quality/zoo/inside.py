"""Arms that ask what hidden states and attention add to keys, values and outputs."""

from __future__ import annotations

from experiments.bench.quality.arm import Arm

TEACHER = "qwen-code"
"""The zoo's best single teacher of outputs and keys and values together."""
_FIXED = "phase.all.fuse.fusion_method=fixed"
OUT = "phase.all.output.projected_kl=1"
"""Next-token distributions over pieces."""
_NO_KV = tuple(f"phase.all.loss.{name}=0" for name in ("lambda_k", "lambda_v"))


def _term(name: str, words: str) -> str:
    return f"phase.all.loss.terms.{name}={{use: match, {words}}}"


def _arm(name: str, asks: str, *settings: str) -> Arm:
    return Arm(name, asks, settings=(_FIXED, *settings), teachers=(TEACHER,))


HIDDEN = _term("hidden", "site: hidden, distance: cosine, projector: linear, weight: 1")
ATTENTION = _term(
    "attention", "site: attention, distance: kl, heads: groups, weight: 0.5"
)

INSIDE = (
    _arm("hidden-cosine", "hidden states beside KV and outputs", OUT, HIDDEN),
    _arm(
        "hidden-mse",
        "the same by squared distance",
        OUT,
        _term("hidden", "site: hidden, distance: mse, projector: linear, weight: 1"),
    ),
    _arm(
        "hidden-last",
        "the last layer's hidden states alone beside KV and outputs",
        OUT,
        _term(
            "hidden",
            "site: hidden, distance: cosine, projector: linear, layers: [-1], "
            "weight: 1",
        ),
    ),
    _arm(
        "hidden-gram",
        "how a text's tokens resemble each other, beside KV and outputs",
        OUT,
        _term("hidden", "site: hidden, distance: gram, scale: channel, weight: 1"),
    ),
    _arm(
        "hidden-contrast",
        "which token it is among the text's, beside KV and outputs",
        OUT,
        _term(
            "hidden",
            "site: hidden, distance: {use: contrastive, temperature: 0.1}, "
            "projector: linear, layers: [-1], weight: 0.1",
        ),
    ),
    _arm("attention-kl", "attention, heads in groups, beside both", OUT, ATTENTION),
    _arm("inside-all", "hidden states, attention, KV, outputs", OUT, HIDDEN, ATTENTION),
    _arm("hidden-out", "hidden states in place of KV", OUT, *_NO_KV, HIDDEN),
    _arm("hidden-alone", "hidden states without KV and outputs", *_NO_KV, HIDDEN),
    _arm("outputs-alone", "outputs without KV", OUT, *_NO_KV),
)
