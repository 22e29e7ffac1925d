"""Arms that ask who should teach, where every domain has a teacher of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from experiments.bench.quality.arm import CE_ONLY, Arm

LONGER = 4
"""Times the steps of other arms that CE only takes, about what all teachers cost."""
SHARES = (0.3, 3, 10, 30)
"""Weights of the teachers' distributions beside 1, tried of every arm alike."""
KD = ("phase.all.output.kd=1",)
"""Teachers' next-token distributions."""
NO_KV = tuple(
    f"phase.all.loss.{name}=0"
    for name in ("lambda_k", "lambda_v", "beta_cos", "outcome_every")
)
"""And nothing else of them."""
_SIGNAL = ("phase.all.loss.router_signal=teacher_loss",)
_FIXED = ("phase.all.fuse.fusion_method=fixed",)
FORESEEN = "phase.all.fuse.fusion_method=prequential"
"""Weights that are told nothing and train nothing."""


def all_of_them(domains: Sequence[str]) -> tuple[str, ...]:
    """Settings under which the outputs of every domain's teacher are learned, no KV."""
    count = len(domains)
    take_part = f"phase.all.teachers={{min: {count}, max: {count}}}"
    return (*NO_KV, *KD, take_part)


def disjoint_arms(domains: Sequence[str]) -> tuple[Arm, ...]:
    """The baseline, single teachers, and every way of weighing all of them.

    Teachers' next-token distributions alone are learned: keys and values of any teacher
    help alike, and would hide who tells what.

    Args:
        domains: each with a teacher of that name.
    """
    every = tuple(domains)
    label = ", ".join(f"{name}: {name}" for name in every)
    by = f"phase.all.fuse.fusion_method={{use: label, domains: {{{label}}}}}"

    def weighed(name: str, asks: str, *settings: str) -> Arm:
        return Arm(
            name, asks, settings=(*all_of_them(every), *settings), teachers=every
        )

    return (
        Arm(CE_ONLY, "the baseline", teachers=()),
        Arm(
            "ce-longer",
            "about the processor time of all teachers in place of them",
            teachers=(),
            stretch=LONGER,
        ),
        *(weighed(*each) for each in _weighings(by)),
        Arm(
            "routed",
            "a learned router",
            settings=(*all_of_them(every), *_SIGNAL),
            teachers=every,
            phases=("routing",),
        ),
        *(
            Arm(
                f"{name}-alone",
                f"the teacher of {name} alone",
                settings=(*NO_KV, *KD, *_FIXED),
                teachers=(name,),
            )
            for name in every
        ),
    )


def tuned_arms(domains: Sequence[str]) -> Iterator[Arm]:
    """Equal and prequential weights, and every teacher alone, each under the weights of
    :data:`SHARES`: what one weight suits need not suit another.

    Args:
        domains: each with a teacher of that name.
    """
    tried = {"equal", "prequential", *(f"{name}-alone" for name in domains)}
    for arm in disjoint_arms(domains):
        for share in SHARES if arm.name in tried else ():
            yield replace(
                arm,
                name=f"{arm.name}-{share:g}",
                asks=f"{arm.asks}, weight {share:g}",
                settings=(*arm.settings, f"phase.all.output.kd={share:g}"),
            )


def _weighings(by_label: str) -> Iterator[tuple[str, ...]]:
    """What may weigh all teachers: an arm's name, what it asks, and its settings."""
    yield "equal", "all teachers, equal weights"
    yield "prequential", "weights by what each foresaw of the text so far", FORESEEN
    for choice, said in (
        ("hard", "the heaviest alone at every token"),
        ("sampled", "one drawn by them at every token"),
    ):
        chosen = f"phase.all.fuse.choice={choice}"
        yield f"prequential-{choice}", f"the same, {said}", FORESEEN, chosen
    confidence = "phase.all.fuse.fusion_method=confidence"
    hard = "phase.all.fuse.choice=hard"
    yield "confidence", "weights by minus each teacher's entropy", confidence
    yield "confidence-hard", "the surest alone at every token", confidence, hard
    yield (
        "score",
        "weights by greatest probability, being right, and minus entropy",
        "phase.all.fuse.fusion_method=score",
    )
    yield (
        "label",
        "each text by its own domain's teacher alone, who is told",
        by_label,
    )
    yield (
        "label-hard",
        "the same, chosen before anybody reads",
        by_label,
        hard,
        "phase.all.fuse.routing_level=sample",
    )
