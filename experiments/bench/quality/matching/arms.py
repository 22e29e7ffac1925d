"""Arms of function matching: much more text, and a teacher's outputs for a label.

Every text has its baseline, cross-entropy alone on that same text: what a teacher says
of a text is held against the text itself.

Source:
    Beyer et al. 2022, Knowledge distillation: A good teacher is patient and consistent
    (arXiv 2106.05237): the distance alone, on much text, for long. Kim and Rush 2016,
    Sequence-Level Knowledge Distillation (arXiv 1606.07947): a teacher's text, learned
    as any other; here it is drawn and no beam search's.
"""

from __future__ import annotations

from experiments.bench.quality.arm import ADAPTED, Arm
from experiments.bench.quality.disjoint.arms import KD, NO_KV
from experiments.bench.quality.matching.texts import UNLABELLED, WRITTEN

TEACHER = "qwen-code"
"""Of the zoo's, the one that teaches most by its outputs."""
BOTH = ("gpt2-prose", TEACHER)
_ALONE = "phase.all.loss.delta_ce=0"
_FIXED = "phase.all.fuse.fusion_method=fixed"


def _plain(name: str, asks: str, *reads: str, stretch: int = 1) -> Arm:
    return Arm(name, asks, teachers=(), reads=reads, stretch=stretch)


def _taught(
    name: str,
    asks: str,
    *reads: str,
    settings: tuple[str, ...] = KD,
    teachers: tuple[str, ...] = (TEACHER + ADAPTED,),
) -> Arm:
    take_part = f"phase.all.teachers={{min: {len(teachers)}, max: {len(teachers)}}}"
    given = (*NO_KV, _FIXED, take_part, *settings)
    return Arm(name, asks, settings=given, teachers=teachers, reads=reads)


_MATCH = (*KD, _ALONE)
MATCHING = (
    _plain("ce-unlabelled", "cross-entropy alone, on five times more text", UNLABELLED),
    _plain("ce-unlabelled-2", "the same for twice the steps", UNLABELLED, stretch=2),
    _plain("ce-written", "cross-entropy alone, on text that decoders wrote", WRITTEN),
    _taught("out-given", "a teacher's outputs beside the next token, no more text"),
    _taught("match-given", "its outputs alone, no more text", settings=_MATCH),
    _taught(
        "match-unlabelled",
        "function matching: its outputs alone, on more text",
        UNLABELLED,
        settings=_MATCH,
    ),
    _taught(
        "match-written",
        "the same, on text that decoders wrote",
        WRITTEN,
        settings=_MATCH,
    ),
    _taught(
        "out-unlabelled", "its outputs beside the next token, on more text", UNLABELLED
    ),
    _taught(
        "match-both",
        "two teachers' outputs alone, on more text",
        UNLABELLED,
        settings=_MATCH,
        teachers=tuple(name + ADAPTED for name in BOTH),
    ),
    _taught(
        "match-pieces",
        "one teacher's outputs alone, over pieces, on more text",
        UNLABELLED,
        settings=("phase.all.output.projected_kl=1", _ALONE),
        teachers=(TEACHER,),
    ),
)
