"""Arms that use the bench's own terms: where a teacher is heard, and peers' losses."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.bench.quality.arm import ADAPTED, Arm
from experiments.bench.quality.disjoint.arms import NO_KV

PLUGIN = "plugins=[experiments.bench.quality.peers.terms]"
TEACHER = "qwen-code"
"""The zoo's best single teacher of outputs, whose vocabulary is not the student's."""
SHARES = (0.1, 0.3, 1, 3, 10, 30, 100)
"""Weights that are tried of every peer's term beside the next token's, and of ours."""
_FIXED = ("phase.all.fuse.fusion_method=fixed",)


def _term(kind: str, weight: float, **options: str) -> str:
    """A setting that asks for one term of the plugin."""
    said = "".join(f", {name}: {value}" for name, value in options.items())
    return f"phase.all.loss.terms.{kind}={{use: {kind}, weight: {weight:g}{said}}}"


def heard_arms(domains: Sequence[str]) -> tuple[Arm, ...]:
    """A domain's teacher on that domain's texts alone, and on all others alone.

    What :func:`.disjoint_arms` calls ``DOMAIN-alone`` hears it on all texts, and
    ``label`` every teacher on its own; these stand between.
    """
    return tuple(
        Arm(
            f"{name}-{place}",
            f"the teacher of {name} on {said}",
            settings=(
                *NO_KV,
                *_FIXED,
                PLUGIN,
                _term("kd_where", 1, domains=f"[{name}]", elsewhere=elsewhere),
            ),
            teachers=(name,),
        )
        for name in domains
        for place, said, elsewhere in (
            ("at-home", "its own domain's texts alone", "false"),
            ("abroad", "all other texts alone", "true"),
        )
    )


def _peer(name: str, asks: str, teacher: str, *terms: str) -> Arm:
    settings = (*NO_KV, *_FIXED, PLUGIN, *terms)
    return Arm(name, asks, settings=settings, teachers=(teacher,))


def _names(student: str, teacher: str) -> str:
    return f"['{student}', '{teacher}']"


PEERS: tuple[Arm, ...] = (
    *(
        _peer(
            f"projected-{share:g}",
            f"ours across vocabularies: output.projected_kl={share:g}",
            TEACHER,
            f"phase.all.output.projected_kl={share:g}",
        )
        for share in SHARES
    ),
    *(
        _peer(
            f"gold-{share:g}",
            f"TRL's GOLD as it is by default, weight {share:g}",
            TEACHER,
            _term("trl_gold", share),
        )
        for share in SHARES
    ),
    *(
        _peer(
            f"gold-hybrid-{share:g}",
            f"GOLD, hybrid and bayesian, weight {share:g}",
            TEACHER,
            _term(
                "trl_gold",
                share,
                merge="bayesian",
                hybrid="true",
                tokenizers=_names("zoo:student", f"zoo:{TEACHER}"),
            ),
        )
        for share in SHARES
    ),
    *(
        _peer(
            f"kd-{share:g}",
            f"ours in one vocabulary: output.kd={share:g}",
            TEACHER + ADAPTED,
            f"phase.all.output.kd={share:g}",
        )
        for share in SHARES
    ),
    *(
        _peer(
            f"gkd-{beta:g}-{share:g}",
            f"TRL's GKD at beta {beta:g}, weight {share:g}",
            TEACHER + ADAPTED,
            _term("trl_gkd", share, beta=f"{beta:g}"),
        )
        for beta in (0.5, 1)
        for share in SHARES
    ),
)
"""Peers' losses beside ours, each at the same weights, keys and values nowhere."""
