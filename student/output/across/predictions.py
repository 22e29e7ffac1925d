"""Where two models of one vocabulary predict the same token of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align.tokens.batch import TokenBatch


def same_predictions(student: TokenBatch, teacher: TokenBatch) -> Tensor:
    """Find where two models of one vocabulary predict the same token of a text.

    A token is the same where its id and its characters are, counting tokens that hold
    the same characters (a character's bytes, special tokens) in order. So it does not
    matter which of the models begins a text with a special token, or where either text
    was cut.

    Args:
        student: (B, T_s) tokens.
        teacher: (B, T_t) tokens of the same texts.

    Returns:
        (B, T_s) int64: the place among the teacher's B * T_t that predicts what the
        student's place predicts, -1 for none.
    """
    if len(student.texts) != len(teacher.texts):
        raise ValueError(
            f"the student reads {len(student.texts)} texts, the teacher "
            f"{len(teacher.texts)}; give both the same batch"
        )
    student_next, teacher_next = _predicted(student), _predicted(teacher)
    codes = np.unique(
        np.concatenate([student_next.key, teacher_next.key], 1),
        axis=1,
        return_inverse=True,
    )
    code = codes[1].ravel()
    _, mine, other = np.intersect1d(
        code[: len(student_next.place)],
        code[len(student_next.place) :],
        return_indices=True,
    )
    out = np.full(student.ids.numel(), -1, np.int64)
    out[student_next.place[mine] - 1] = teacher_next.place[other] - 1
    return torch.from_numpy(out).view(student.ids.shape).to(student.ids.device)


Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Predicted:
    """The tokens that a model predicts."""

    place: Ints
    """(P,) among B * T."""
    key: Ints
    """(5, P): text, first character, characters, rank among tokens of the same ones,
    and id; all different."""


def _predicted(batch: TokenBatch) -> _Predicted:
    tokens = max(batch.ids.shape[1], 1)
    spans = batch.spans.cpu().numpy().reshape(-1, 2)
    place = np.flatnonzero(batch.mask.cpu().numpy())
    row, start = place // tokens, spans[place, 0]
    width = spans[place, 1] - start
    order = np.lexsort((place, width, start, row))
    key = np.stack([row, start, width])[:, order]
    place = place[order]
    new = np.ones(len(place), bool)
    new[1:] = (key[:, 1:] != key[:, :-1]).any(0)
    count = np.arange(len(place))
    rank = count - np.maximum.accumulate(np.where(new, count, 0))
    ids = batch.ids.cpu().numpy().ravel()[place]
    predicted = batch.predicted.cpu().numpy().copy()
    predicted[:, :1] = False
    kept = predicted.ravel()[place]
    return _Predicted(place[kept], np.stack([*key, rank, ids])[:, kept])
