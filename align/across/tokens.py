"""Bring what was read of a source to the tokens of its translation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from align.errors import InputError
from align.text.prompted import Beside
from align.time_align import Alignment
from align.tokens.batch import TokenBatch

Aligner = Callable[[TokenBatch, TokenBatch], Alignment]

SINKS = 1
"""Leading tokens of a source that no mean of a sentence takes in."""


def are_beside(texts: Sequence[str]) -> bool:
    """Whether texts are translations beside their sources.

    Raises:
        InputError: some are and some are not.
    """
    kinds = {isinstance(text, Beside) for text in texts}
    if len(kinds) > 1:
        raise InputError(
            "some texts of a batch stand beside a source and some do not; give all "
            "data.pairs apart, and data.train=[]"
        )
    return kinds == {True}


def aligned(aligner: Aligner, student: TokenBatch, teacher: TokenBatch) -> Alignment:
    """Align two tokenizations of the same texts, or of translations and sources.

    Args:
        aligner: of the same texts; not asked about others.
        student: (B, T_s) tokens.
        teacher: (B, T_t) tokens, of the sources where the student's texts are
            :class:`align.text.prompted.Beside` them.

    Returns:
        The aligner's answer; or :func:`across`.
    """
    return (
        across(student, teacher)
        if are_beside(student.texts)
        else aligner(student, teacher)
    )


def across(student: TokenBatch, teacher: TokenBatch) -> Alignment:
    """Align translations with their sources, by words where links say which translate
    which, else by sentence.

    By words a student token is fed by the teacher's tokens of all words that are linked
    with a word it holds some of, each by its characters of them; one without a link
    gets nothing. By sentence every token of text is fed by all tokens of the source
    that hold text, alike: by their mean, behind the source's first token, since
    attention gathers there (``loss.skip_sinks``) and what it feeds is not compared.

    Args:
        student: (B, T_s) tokens of B translations.
        teacher: (B, T_t) tokens of their sources.

    Returns:
        Rows sum to 1. It says nothing of who has read how far, so that no causal model
        may be fed by it.
    """
    rows, cols, weights = [], [], []
    device, width = student.ids.device, teacher.ids.shape[1]
    ours, theirs = student.has_text.cpu(), teacher.has_text.cpu()
    for row, text in enumerate(student.texts):
        assert isinstance(text, Beside)
        if text.links is None:
            behind = theirs[row].clone()
            behind[:SINKS] = False
            left, right = ours[row][:, None].float(), behind[:, None].float()
        else:
            links = torch.tensor(text.links, dtype=torch.int64).reshape(-1, 4)
            held = _shared(student.spans[row].cpu(), links[:, :2]) * ours[row][:, None]
            left = (held > 0).float()
            right = _shared(teacher.spans[row].cpu(), links[:, 2:])
            right = right.float() * theirs[row][:, None]
        mass = left @ right.T  # (T_s, T_t)
        total = mass.sum(1, keepdim=True)
        at, by = mass.nonzero(as_tuple=True)
        rows.append(at + row * len(mass))
        cols.append(by + row * width)
        weights.append((mass / total.clamp_min(1e-9))[at, by])
    shape = (len(student.texts), student.ids.shape[1], width)
    if not rows:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return Alignment(nothing, nothing, nothing.float(), shape)
    at_student, at_teacher, weight = (
        torch.cat(x).to(device) for x in (rows, cols, weights)
    )
    return Alignment(at_student, at_teacher, weight, shape)


def _shared(spans: Tensor, words: Tensor) -> Tensor:
    """(T, 2) and (N, 2) characters -> (T, N) int64, how many both hold."""
    start = torch.maximum(spans[:, None, 0], words[None, :, 0])
    end = torch.minimum(spans[:, None, 1], words[None, :, 1])
    return (end - start).clamp_min(0)
