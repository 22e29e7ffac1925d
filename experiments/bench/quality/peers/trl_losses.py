"""TRL's own loss functions on what a step of ours knows.

Theirs take logits, labels and ids of a batch. GKD's is a divergence token by token.
GOLD's multiplies, where tokenizers cut a text otherwise, one token's distribution by
the probabilities of the other tokens of a common stretch, and compares by rank, or
with ``hybrid`` tokens of both vocabularies as such. By default (``observed``) it takes
the distribution *after* a token for the one that foretold it, and multiplies by the
probability which that distribution gives the token itself: one place late.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from align.errors import InputError
from align.tokens.batch import TokenBatch
from align.views import Output
from student.output.across.pairing import after
from student.output.divergence.linear import logits_of
from student.step_outputs import Outputs, Taught

IGNORE = -100
"""A label that is not learned."""


class GoldOptions(Protocol):
    """What is chosen of GOLD's loss, see :class:`.terms.TrlGold`."""

    @property
    def merge(self) -> str:
        """TRL's ``uld_token_merge_strategy``."""

    @property
    def hybrid(self) -> bool:
        """TRL's ``uld_use_hybrid_loss``."""

    @property
    def beta(self) -> float:
        """Of the hybrid part."""

    @property
    def tokenizers(self) -> list[str]:
        """Models whose tokenizers are the student's and the teacher's."""


def gkd(outputs: Outputs, taught: Taught, beta: float, temperature: float) -> Tensor:
    """``GKDTrainer.generalized_jsd_loss`` over places that predict the same token.

    Args:
        outputs: of the student.
        taught: a teacher of its vocabulary.
        beta: 0 is forward KL, 1 reverse KL.
        temperature: of both.

    Returns:
        A scalar, the mean over places that weigh anything.
    """
    pairing = outputs.pairing(taught)
    rows = (pairing.same_next(taught.weight) > 0).nonzero()[:, 0]
    student = outputs.student.hidden.flatten(0, 1)[rows]
    teacher = taught.output.hidden.flatten(0, 1)[pairing.same.flatten()[rows]]
    loss: Tensor = trl().gkd.GKDTrainer.generalized_jsd_loss(
        logits_of(student, outputs.student.head, torch.float32)[None],
        logits_of(teacher, taught.output.head, torch.float32)[None],
        labels=after(outputs.student.tokens.ids).flatten()[rows][None],
        beta=beta,
        temperature=temperature,
    )
    return loss


def gold(outputs: Outputs, taught: Taught, options: GoldOptions) -> Tensor:
    """``ULDLoss`` over the text that both models have read to the end.

    Args:
        outputs: of the student.
        taught: a teacher of any vocabulary.
        options: of the loss.

    Returns:
        A scalar, the mean over texts.
    """
    sides = outputs.student, taught.output
    ends = [side.tokens.spans[..., 1].amax(1) for side in sides]
    end = torch.minimum(*ends)[:, None]
    student, teacher = (_region(side, end) for side in sides)
    loss: Tensor = _uld(
        options.merge, options.hybrid, options.beta, tuple(options.tokenizers)
    )(
        student_logits=student.logits,
        teacher_logits=teacher.logits,
        student_labels=student.labels,
        teacher_labels=teacher.labels,
        student_input_ids=sides[0].tokens.ids,
        teacher_input_ids=sides[1].tokens.ids,
        student_byte_offsets=student.offsets,
        teacher_byte_offsets=teacher.offsets,
    )
    return loss


def _region(side: Output, end: Tensor) -> SimpleNamespace:
    """Logits (B, T, V), labels (B, T) of the text up to ``end`` (B, 1), and the bytes
    (B, T, 2) that every token holds."""
    tokens = side.tokens
    shape = tokens.ids.shape
    logits = logits_of(side.hidden.flatten(0, 1), side.head, torch.float32)
    kept = tokens.has_text & (tokens.spans[..., 1] <= end)
    return SimpleNamespace(
        logits=logits.view(*shape, -1),
        labels=tokens.ids.masked_fill(~kept, IGNORE),
        offsets=_bytes(tokens),
    )


def _bytes(tokens: TokenBatch) -> Tensor:
    """Spans in bytes of UTF-8, as TRL's collator gives them."""
    rows = []
    for text, spans in zip(tokens.texts, tokens.spans, strict=True):
        sizes = torch.tensor([len(letter.encode()) for letter in text] or [0])
        before = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
        rows.append(before.to(spans.device)[spans])
    return torch.stack(rows)


@lru_cache(maxsize=8)
def _uld(merge: str, hybrid: bool, beta: float, tokenizers: tuple[str, ...]) -> Any:
    """TRL's loss with its own defaults but for what is given."""
    from teacher.loading.models import load_model

    gold_config = trl().gold_config.GOLDConfig
    defaults = {field.name: field.default for field in fields(gold_config)}
    given = {
        "use_uld_loss": True,
        "uld_token_merge_strategy": merge,
        "uld_use_hybrid_loss": hybrid,
        "beta": beta,
        "uld_skip_student_eos": False,  # these texts hold no end
        "uld_skip_teacher_eos": False,
    }
    config = SimpleNamespace(**defaults | given)
    if not hybrid:
        return trl().gold.ULDLoss(config)
    if len(tokenizers) != 2:
        raise InputError(
            f"trl_gold with hybrid=true has tokenizers={list(tokenizers)}; give the "
            "student's model and the teacher's"
        )
    student, teacher = (load_model(name).tokenizer for name in tokenizers)
    return trl().gold.ULDLoss(config, student, teacher)


@lru_cache(maxsize=1)
def trl() -> SimpleNamespace:
    """TRL's modules of these losses.

    Raises:
        InputError: the package is not there.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from trl.experimental.gkd import gkd_trainer
            from trl.experimental.gold import gold_config, gold_trainer
    except ImportError as error:
        raise InputError(
            f"the losses of TRL cannot be had ({error}); pip install trl, 1.16 is known"
        ) from error
    return SimpleNamespace(gkd=gkd_trainer, gold=gold_trainer, gold_config=gold_config)
