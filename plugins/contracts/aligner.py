"""Contract of aligners: short texts by hand, long ones by chance, asked many times."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from align.causality import check_causal
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from plugins.answers import alignment_problem
from plugins.hookspecs import Aligner
from plugins.promise import Promise, first_problem, problem
from plugins.untouched import Untouched

_TEXTS = ("unbelievable tea", "深度 KV", "")
STUDENT = (
    [(0, 0), (0, 2), (2, 9), (9, 12), (12, 16)],
    [(0, 0), (0, 1), (1, 2), (2, 5)],
    [(0, 0)],
)
TEACHER = (
    [(0, 12), (12, 13), (13, 16), (16, 16)],
    [(0, 2), (2, 3), (3, 4), (4, 5), (5, 5)],
    [(0, 0)],
)
_WORDS = (
    *("the", "unbelievable", "cache", "of", "深度学习", "keys,", "values"),
    *("and", "naïve", "🙂", "spans;\n\tdef", "</s>", "<|endoftext|>"),
)
_LENGTHS = ((3, 40), (1, 150), (2, 400), (1, 1200), (5, 90), (1, 2600), (1, 1))
"""Texts and about how many characters each, of the longer batches."""
CALLS = 120
"""How often one aligner is asked, since some faults begin late."""

Spans = Sequence[tuple[int, int]]


def aligner(factory: Callable[[], Aligner]) -> Iterator[Promise]:
    """An aligner is tried on Latin, Chinese and empty text with padding, then on longer
    texts in batches of several sizes, many times over."""
    subject = _Subject(factory, token_batch(STUDENT), token_batch(TEACHER))
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, and the short texts that it is tried on."""

    factory: Callable[[], Aligner]
    student: TokenBatch
    teacher: TokenBatch

    def kind(self) -> str:
        alignment = self.factory()(self.student, self.teacher)
        if not isinstance(alignment, Alignment):
            return f"returns {type(alignment).__name__}"
        wanted = (len(_TEXTS), self.student.ids.shape[1], self.teacher.ids.shape[1])
        return problem(
            tuple(alignment.shape) != wanted, f"{alignment.shape} for {wanted}"
        )

    def flag(self) -> str:
        causal = getattr(self.factory(), "causal", None)
        return problem(not isinstance(causal, bool), f"causal is {causal!r}")

    def sums(self) -> str:
        rows = self.factory()(self.student, self.teacher).dense().sum(-1)
        wrong = ((rows - 1).abs() > 1e-5) & (rows != 0)
        return problem(wrong.any(), f"sums are {rows[wrong].tolist()}")

    def signs(self) -> str:
        weights = self.factory()(self.student, self.teacher).weights
        return problem((~(weights >= 0)).any(), f"weights are {weights.tolist()}")

    def text_only(self) -> str:
        dense = self.factory()(self.student, self.teacher).dense()
        into, outof = dense.sum(-1) > 0, dense.sum(-2) > 0
        return first_problem(
            problem(
                (into & ~self.student.has_text).any(), "a token without text is fed"
            ),
            problem(
                (outof & ~self.teacher.has_text).any(), "a token without text feeds"
            ),
        )

    def itself(self) -> str:
        for tokens in (self.teacher, token_batch([[(0, 3)]], ["tea"])):
            same = self.factory()(tokens, tokens)
            if (tokens.has_text & ~same.covered).any():
                return f"a token of {tuple(tokens.ids.shape)} is uncovered"
        return ""

    def alone(self) -> str:
        made = self.factory()
        for s, t in [(self.student, self.teacher), *long_batches()]:
            together = made(s, t).dense()
            for row in range(len(s.texts)):
                row_alone = made(_row(s, row), _row(t, row)).dense()[0]
                inside = together[row, : row_alone.shape[0], : row_alone.shape[1]]
                if not torch.allclose(row_alone, inside, atol=1e-5):
                    return f"text {row} is aligned differently in a batch"
        return ""

    def others(self) -> str:
        used = self.factory()
        for s, t in _of_equal_lengths():
            if not torch.equal(used(s, t).dense(), self.factory()(s, t).dense()):
                return "answers otherwise after other texts of as many tokens"
        return ""

    def covers(self) -> str:
        alignment = self.factory()(self.student, self.teacher)
        return problem(not len(alignment.rows), "feeds no token at all")

    def untouched(self) -> str:
        before = Untouched(
            {"student": self.student, "teacher": self.teacher}, whole=True
        )
        self.factory()(self.student, self.teacher)
        return before.problem()

    def future(self) -> str:
        made = self.factory()
        if made.causal:  # type: ignore[attr-defined]
            check_causal(made(self.student, self.teacher), self.student, self.teacher)
        return ""

    def often(self) -> str:
        made: Any = self.factory()
        batches = [(self.student, self.teacher), *long_batches()]
        first: dict[int, tuple[Alignment, bool]] = {}
        for call in range(CALLS):
            which = call % len(batches)
            s, t = batches[which]
            before = Untouched({"student": s, "teacher": t}, whole=True)
            alignment, causal = made(s, t), bool(made.causal)
            changed = before.problem()
            known, was_causal = first.get(which, (None, False))
            if not changed and causal == was_causal and _same(alignment, known):
                continue  # as good as it was then
            wrong = alignment_problem(alignment, s, t) or changed
            if not wrong and causal:
                check_causal(alignment, s, t)
            if known is None and not wrong:
                first[which] = deepcopy(alignment), causal  # which nobody writes to
            elif known is not None and not wrong:
                alike = torch.equal(alignment.dense(), known.dense())
                wrong = problem(not alike, "returns another answer to the same tokens")
            if wrong:
                longest = max(map(len, s.texts))
                return f"{wrong} (call {call + 1}, texts of up to {longest} characters)"
        return ""


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("says whether it is causal", _Subject.flag),
    ("returns an Alignment of (B, T_s, T_t)", _Subject.kind),
    ("weights are >= 0", _Subject.signs),
    ("the weights of a student token sum to 1, or it has none", _Subject.sums),
    ("special tokens and padding neither feed nor are fed", _Subject.text_only),
    ("feeds some token where texts meet", _Subject.covers),
    ("covers every token where both tokenizations are equal", _Subject.itself),
    ("leaves its input as it was", _Subject.untouched),
    ("no future leaks if it says so", _Subject.future),
    ("keeps all this call after call, whatever the length", _Subject.often),
    ("aligns each text by itself", _Subject.alone),
    ("aligns each text whatever came before", _Subject.others),
)


def _same(alignment: Any, known: Alignment | None) -> bool:
    """Whether an answer is that alignment, pair for pair and bit for bit."""
    if known is None or type(alignment) is not Alignment:
        return False
    pairs = (_tensors(x) for x in (alignment, known))
    return alignment.shape == known.shape and all(map(_equal, *pairs))


def _tensors(alignment: Alignment) -> tuple[Any, ...]:
    return alignment.rows, alignment.cols, alignment.weights, alignment.shared


def _equal(x: Any, y: Tensor | None) -> bool:
    if not isinstance(x, Tensor) or y is None:
        return x is y
    return x.dtype == y.dtype and x.device == y.device and torch.equal(x, y)


def token_batch(
    spans: Sequence[Spans], texts: Sequence[str] = _TEXTS, seed: int = 0
) -> TokenBatch:
    """A padded batch of texts from spans.

    Args:
        spans: one list a text.
        texts: the contract's own by default.
        seed: of the ids.
    """
    length = max(len(row) for row in spans)
    padded = [[*row, *[(0, 0)] * (length - len(row))] for row in spans]
    mask = torch.tensor([[i < len(row) for i in range(length)] for row in spans])
    shift = torch.arange(len(spans))[:, None] * 7 + seed
    return TokenBatch(
        (torch.arange(length) + shift) % 101,
        mask,
        torch.tensor(padded),
        tuple(texts),
    )


def long_batches() -> list[tuple[TokenBatch, TokenBatch]]:
    """Student's and teacher's tokens of longer texts: words, pieces, bytes."""
    chance = random.Random(0)
    batches = []
    for count, size in _LENGTHS:
        texts = [_text(chance, size + 7 * i) for i in range(count)]
        student = [_spans(chance, text, 4) for text in texts]
        teacher = [_spans(chance, text, 9) for text in texts]
        batches.append((token_batch(student, texts), token_batch(teacher, texts, 3)))
    return batches


def _of_equal_lengths() -> list[tuple[TokenBatch, TokenBatch]]:
    """Batches that differ in texts and spans, and not in the number of tokens."""
    text, other = "unbelievable tea", "tea unbelievable"
    return [
        (token_batch([STUDENT[0]], [text]), token_batch([TEACHER[0]], [text], 3)),
        (
            token_batch([[(0, 0), (0, 1), (1, 3), (3, 10), (10, 16)]], [other], 5),
            token_batch([[(0, 3), (3, 4), (4, 16), (16, 16)]], [other], 6),
        ),
    ]


def _text(chance: random.Random, size: int) -> str:
    words: list[str] = []
    while sum(map(len, words)) + len(words) < size:
        words.append(chance.choice(_WORDS))
    return " ".join(words)[:size]


def _spans(chance: random.Random, text: str, most: int) -> list[tuple[int, int]]:
    """A begin token, pieces of up to ``most`` characters, some characters in bytes."""
    spans, at = [(0, 0)], 0
    while at < len(text):
        if ord(text[at]) > 255 and chance.random() < 0.5:
            spans += [(at, at + 1)] * 3
            at += 1
            continue
        end = min(len(text), at + chance.randint(1, most))
        spans.append((at, end))
        at = end
    return spans


def _row(batch: TokenBatch, row: int) -> TokenBatch:
    """One text alone, without the padding."""
    tokens = int(batch.mask[row].sum())
    return TokenBatch(
        batch.ids[row : row + 1, :tokens],
        batch.mask[row : row + 1, :tokens],
        batch.spans[row : row + 1, :tokens],
        batch.texts[row : row + 1],
    )
