"""Arms that ask what recipes of agglomerative vision models bring to keys and values.

Two teachers of the zoo, keys and values alone, each change by itself.
"""

from __future__ import annotations

from experiments.bench.quality.arm import Arm

PAIR = ("gpt2-prose", "qwen-code")
"""A specialist of each domain."""
_WEIGHT = 2.0
"""What keys, or values, weigh together, as in the config of the size ``zoo``."""
PLAIN_OFF = tuple(
    f"phase.all.loss.{name}=0" for name in ("lambda_k", "lambda_v", "beta_cos")
)
"""What learns keys and values by default, left out."""


def _arm(name: str, asks: str, *settings: str) -> Arm:
    return Arm(name, asks, settings=settings, teachers=PAIR)


def _space(option: str) -> str:
    return f"phase.all.fuse.space={{use: losses, {option}}}"


def terms(
    projector: str, *, sites: tuple[str, ...] = ("keys", "values"), **shares: float
) -> tuple[str, ...]:
    """Settings: keys and values by some distances, which share their weight.

    Args:
        projector: of both, as ``match`` names it, with more of the term's options after
            a comma.
        sites: what is learned.
        shares: distance -> its share.
    """
    return tuple(
        f"phase.all.loss.terms.{site}-{distance}={{use: match, site: {site}, "
        f"distance: {distance}, projector: {projector}, weight: {share * _WEIGHT:g}}}"
        for site in sites
        for distance, share in shares.items()
    )


AGGLOMERATIVE = (
    _arm("pair-kv", "both specialists of the zoo, keys and values alone"),
    _arm("kv-one-scale", "one scale a teacher and layer", _space("scale: layer")),
    _arm(
        "kv-drop",
        "the easier teacher left out of every other text",
        _space("drop_easier: 0.5"),
    ),
    _arm(
        "kv-match",
        "squared distance alone, as a term match: what the next two change",
        *PLAIN_OFF,
        *terms("linear", mse=1),
    ),
    _arm(
        "kv-radio",
        "nine tenths cosine, one tenth smooth L1",
        *PLAIN_OFF,
        *terms("linear", cosine=0.9, smooth_l1=0.1),
    ),
    _arm(
        "kv-mlp",
        "projectors with a hidden layer",
        *PLAIN_OFF,
        *terms("mlp", mse=1),
    ),
)
