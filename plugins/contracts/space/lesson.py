"""Small lessons on which spaces are tried: sizes, statistics and views of no model.

Three teachers that differ in everything a space may stumble on: one reads the student's
tokens and covers a part of the text, one has tokens of its own, one is bidirectional.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from align.calibration import CalibrationStats
from align.kv import KV
from align.layer_map import build_multi_teacher_layer_map
from align.reading import Reading
from align.sizes import Sizes
from align.time_align import Alignment
from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner
from align.tokens.batch import TokenBatch
from align.views import TeacherView
from fuse.weigher import share
from plugins.contracts.aligner import STUDENT, TEACHER, long_batches, token_batch
from student.attention_sinks import without_sinks
from student.bridges.base import PairStats, TeacherShape
from student.places import Counts, Places, Share, availability, find_places

PARTLY, OWN_TOKENS, BOTH_WAYS = 0, 1, 2
"""The teachers by number."""
_NAMES = ("partly", "own-tokens", "both-ways")
_LAYERS, _DEPTHS = 2, (3, 5, 2)
_HEADS = ((1, 5, 9), (3, 4, 2), (4, 2, 2))
"""Each teacher's heads, and the head sizes of its keys and values."""
_SAMPLE = 96
"""Tokens of the calibration sample, more than any width."""


def student_shape() -> Sizes:
    """Two heads, whose keys are narrower than its values."""
    return Sizes(layers=_LAYERS, heads=2, k_dim=4, v_dim=6, hidden_size=8)


def teacher_shapes(chosen: Iterable[int] = (0, 1, 2)) -> tuple[TeacherShape, ...]:
    """Teachers of other heads, widths and depths, by number."""
    chosen = list(chosen)
    maps = build_multi_teacher_layer_map([_DEPTHS[m] for m in chosen], _LAYERS)
    return tuple(
        TeacherShape(
            name=_NAMES[m],
            sizes=_sizes(_DEPTHS[m], *_HEADS[m]),
            layer_map=layer_map,
            causal=m != BOTH_WAYS,
        )
        for m, layer_map in zip(chosen, maps, strict=True)
    )


def _sizes(layers: int, heads: int, k_dim: int, v_dim: int) -> Sizes:
    width = heads * k_dim
    return Sizes(
        layers=layers, heads=heads, k_dim=k_dim, v_dim=v_dim, hidden_size=width
    )


def pair_statistics(
    student: Sizes, teacher: TeacherShape, seed: int
) -> tuple[PairStats, PairStats]:
    """What calibration gathers of one teacher: keys, values.

    Args:
        student: its sizes.
        teacher: its sizes.
        seed: of the features, which share causes.
    """
    # as in `lesson`: everybody has a copy
    return deepcopy(_gathered(student, teacher, seed, torch.get_default_dtype()))


@lru_cache(maxsize=64)
def _gathered(
    student: Sizes, teacher: TeacherShape, seed: int, dtype: torch.dtype
) -> tuple[PairStats, PairStats]:
    """Statistics before anybody has them; ``dtype`` is PyTorch's default of now, in
    which features are drawn."""
    chance = torch.Generator().manual_seed(seed)
    pairs = []
    for teacher_width, student_width in (
        (teacher.k_width, student.k_width),
        (teacher.v_width, student.v_width),
    ):
        causes = torch.randn(student.layers, _SAMPLE, 6, generator=chance)
        x, y = (
            causes @ torch.randn(student.layers, 6, width, generator=chance)
            + torch.randn(student.layers, _SAMPLE, width, generator=chance)
            + 2
            for width in (teacher_width, student_width)
        )
        to_student = CalibrationStats(student.layers, teacher_width, student_width)
        to_teacher = CalibrationStats(student.layers, student_width, teacher_width)
        to_student.update(x, y)
        to_teacher.update(y, x)
        pairs.append(PairStats(to_student, to_teacher))
    return pairs[0], pairs[1]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesson:
    """One batch as a bridge meets it."""

    batch: TokenBatch
    """The student's tokens, (B, T)."""
    kv: KV
    """The student's, leaves with gradient."""
    readings: list[Reading]
    views: list[TeacherView]
    weights: Tensor
    """(B, T, M) float32, 0 on padding, on sinks and where a teacher covers nothing."""

    @property
    def places(self) -> Places:
        """Where the batch's texts are compared, as known before the student reads."""
        known = self.weights
        return find_places(
            self.batch, self.readings, rows=None, weight=known, skip_sinks=1, plan=None
        )

    def share(self, counted: dict[str, tuple[float, ...]], times: int) -> Share:
        """The batch as one of so many like it that make an optimiser step."""
        places = self.places
        step = {name: tuple(times * x for x in xs) for name, xs in counted.items()}
        return Share(
            places,
            Counts(places.predicted, counted),
            Counts(times * places.predicted, step),
        )


def lesson(
    teachers: tuple[TeacherShape, ...] | None = None,
    *,
    seed: int = 0,
    texts: int | None = None,
    long: int | None = None,
    covered: bool = True,
) -> Lesson:
    """A batch of the contract's texts, or of longer ones.

    Args:
        teachers: from :func:`teacher_shapes`; None: all three.
        seed: of keys, values and weights.
        texts: the first so many alone, with the padding of all; None: all.
        long: which of the longer batches; None: the short texts.
        covered: False leaves every token without teacher text.
    """
    teachers = teacher_shapes() if teachers is None else teachers
    # a plugin may write to what it is given: everybody has a copy
    drawn = _drawn(
        teachers,
        seed=seed,
        long=long,
        covered=covered,
        dtype=torch.get_default_dtype(),
    )
    whole = deepcopy(drawn)
    whole = whole if texts is None else _first(whole, texts)
    leaves = (whole.kv.k.requires_grad_(), whole.kv.v.requires_grad_())
    return replace(whole, kv=replace(whole.kv, k=leaves[0], v=leaves[1]))


@lru_cache(maxsize=64)
def _drawn(
    teachers: tuple[TeacherShape, ...],
    *,
    seed: int,
    long: int | None,
    covered: bool,
    dtype: torch.dtype,
) -> Lesson:
    """A lesson before anybody has it; ``dtype`` is PyTorch's default of now, in which
    keys and values are drawn."""
    student, chance = student_shape(), torch.Generator().manual_seed(seed)
    student_tokens, teacher_tokens = (
        (token_batch(STUDENT), token_batch(TEACHER, seed=3))
        if long is None
        else long_batches()[long]
    )
    kv = _keys_and_values(student.layers, student, student_tokens, chance)
    readings, views = [], []
    for teacher in teachers:
        tokens = student_tokens if teacher.name == "partly" else teacher_tokens
        reading = _reading(teacher, student_tokens, tokens, covered)
        layers = len(teacher.layer_map.needed)
        readings.append(reading)
        views.append(
            TeacherView(
                name=teacher.name,
                kv=_keys_and_values(layers, teacher, tokens, chance),
                alignment=reading.alignment,
                causal=reading.causal,
            )
        )
    raw = torch.rand(*student_tokens.ids.shape, len(teachers), generator=chance) + 0.1
    weights = share(raw, availability(student_tokens, views)) * without_sinks(
        student_tokens, views, 1
    )
    return Lesson(
        batch=student_tokens, kv=kv, readings=readings, views=views, weights=weights
    )


def with_other_keys(view: TeacherView, start: int = 0) -> TeacherView:
    """The same view, whose teacher says something else from one of its tokens on."""
    k, v = view.met.k.clone(), view.met.v.clone()
    for x in (k, v):
        x[:, :, :, start:] = 3 - 2 * x[:, :, :, start:].flip(-1)
    return replace(view, kv=replace(view.met, k=k, v=v))


def reached(view: TeacherView, start: int) -> Tensor:
    """(B, T_s) bool: student tokens that have read a teacher's token from ``start`` on.

    Those are the tokens that the causal alignment feeds from there, and all after them.
    """
    assert view.causal is not None
    batch, student, teacher = view.causal.shape
    fed = torch.zeros(batch * student, dtype=torch.bool, device=view.met.k.device)
    fed[view.causal.rows[view.causal.cols % max(teacher, 1) >= start]] = True
    return fed.view(batch, student).cumsum(1) > 0


def _keys_and_values(
    layers: int,
    shape: Sizes | TeacherShape,
    batch: TokenBatch,
    chance: torch.Generator,
) -> KV:
    texts, tokens = batch.ids.shape
    size = (layers, texts, shape.heads, tokens)
    return KV(
        torch.randn(*size, shape.k_width // shape.heads, generator=chance) + 1,
        torch.randn(*size, shape.v_width // shape.heads, generator=chance) + 1,
        batch.mask,
    )


def _reading(
    teacher: TeacherShape, student_tokens: TokenBatch, tokens: TokenBatch, covered: bool
) -> Reading:
    alignment = CharIoUAligner()(student_tokens, tokens)
    causal = CausalCharIoUAligner()(student_tokens, tokens) if teacher.causal else None
    texts, length = student_tokens.ids.shape
    known = torch.ones(texts * length, dtype=torch.bool)
    if teacher.name == "partly":  # not the second half of a text, nor the second text
        known = (torch.arange(length) < max(length // 2, 1)).repeat(texts)
        known[length : 2 * length] = False
    if not covered:
        known[:] = False
    return Reading(
        name=teacher.name,
        student=student_tokens,
        tokens=tokens,
        alignment=_only(alignment, known),
        causal=None if causal is None else _only(causal, known),
        mask=tokens.mask,
    )


def _only(pairs: Alignment, known: Tensor) -> Alignment:
    """The pairs of these student tokens, (B * T_s,) bool."""
    kept = known[pairs.rows]
    return Alignment(
        rows=pairs.rows[kept],
        cols=pairs.cols[kept],
        weights=pairs.weights[kept],
        shape=pairs.shape,
        shared=None if pairs.shared is None else pairs.shared[kept],
    )


def _first(whole: Lesson, texts: int) -> Lesson:
    """The first texts of a batch, as they stand in it."""

    def tokens(batch: TokenBatch) -> TokenBatch:
        return TokenBatch(
            batch.ids[:texts],
            batch.mask[:texts],
            batch.spans[:texts],
            batch.texts[:texts],
        )

    def pairs(whole_batch: Alignment | None) -> Alignment | None:
        if whole_batch is None:
            return None
        known = torch.arange(len(whole_batch.covered) * whole_batch.shape[1]) < (
            texts * whole_batch.shape[1]
        )
        kept = _only(whole_batch, known)
        return replace(kept, shape=(texts, *whole_batch.shape[1:]))

    def kv(given: KV) -> KV:
        return KV(
            given.k[:, :texts].clone(), given.v[:, :texts].clone(), given.mask[:texts]
        )

    readings, views = [], []
    for reading, view in zip(whole.readings, whole.views, strict=True):
        alignment, causal = pairs(reading.alignment), pairs(reading.causal)
        assert alignment is not None and reading.tokens is not None
        readings.append(
            replace(
                reading,
                student=tokens(reading.student),
                tokens=tokens(reading.tokens),
                alignment=alignment,
                causal=causal,
                mask=reading.mask[:texts],
            )
        )
        views.append(replace(view, kv=kv(view.met), alignment=alignment, causal=causal))
    return Lesson(
        batch=tokens(whole.batch),
        kv=kv(whole.kv),
        readings=readings,
        views=views,
        weights=whole.weights[:texts],
    )
