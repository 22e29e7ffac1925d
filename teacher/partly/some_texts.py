"""Ask a teacher about some texts of a batch, and let it rest on the others.

What it is asked about is a batch of its own: the others are not tokenised for it, not
looked up in its store, and its model does not run on them. What it says is then laid
back into the whole batch, where it has no tokens of the other texts. So it covers
nothing of them, and to whoever comes after they look like any text of which a teacher
knows nothing: weight 0, and zeros where a number has to stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.kv import KV
from align.reading import ASKING, Reading, SomeTexts
from align.support.stopwatch import part
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from align.views import Asked, ForetoldTokens, Output, Teacher, TeacherView


def only_texts(batch: TokenBatch, rows: Tensor) -> TokenBatch:
    """These texts of a batch, at its width.

    Args:
        batch: (B, T).
        rows: (k,) int64, which.
    """
    taken: dict[str, Any] = {
        name: getattr(batch, name)[rows] for name in ("ids", "mask", "spans")
    }
    taken |= {
        name: x[rows]
        for name in ("weight", "own")
        if (x := getattr(batch, name)) is not None
    }
    texts = tuple(batch.texts[row] for row in rows.tolist())
    return replace(batch, **taken, texts=texts)


def read_some(
    read: Callable[[TokenBatch], Reading],
    student: TokenBatch,
    chosen: Tensor,
    *,
    teacher: Teacher,
    asked: Asked,
) -> Reading:
    """A teacher's reading of a batch of which it is asked about some texts.

    Args:
        read: its reading of any batch.
        student: the student's tokens, (B, T_s).
        chosen: (B,) bool, the texts that it is asked about.
        teacher: who reads.
        asked: what the phase asks of it.
    """
    rows = chosen.nonzero()[:, 0].to(student.ids.device)
    if len(rows) == len(student.ids):
        whole = read(student)
        return replace(whole, some=SomeTexts(rows, whole))
    if not len(rows):
        return _unread(teacher, student, asked, rows)
    piece = read(only_texts(student, rows))
    batch = len(student.ids)
    alignment = _spread_pairs(piece.alignment, rows, batch)
    causal = piece.causal
    if causal is not None:
        same = causal is piece.alignment
        causal = alignment if same else _spread_pairs(causal, rows, batch)
    tokens = piece.tokens
    if tokens is not None:
        tokens = TokenBatch(
            _spread(tokens.ids, rows, batch),
            _spread(tokens.mask, rows, batch),
            _spread(tokens.spans, rows, batch),
            student.texts,
        )
    origin = piece.origin
    if origin is not None:
        origin = _spread(origin + 1, rows, batch) - 1  # -1 on the others
    return replace(
        piece,
        student=student,
        tokens=tokens,
        alignment=alignment,
        causal=causal,
        mask=_spread(piece.mask, rows, batch),
        origin=origin,
        some=SomeTexts(rows, piece),
    )


def part_of(reading: Reading, rows: Tensor | None) -> tuple[Reading, Tensor | None]:
    """What a teacher that has read a batch in part is asked about.

    Args:
        reading: from :func:`read_some`, of one text at least; or any.
        rows: (B, R) int64 student positions of the whole batch.

    Returns:
        The reading of its texts alone, and the positions in them.
    """
    some = reading.some
    if some is None or some.reading is None:
        return reading, rows
    return some.reading, None if rows is None else rows[some.rows]


def spread_view(piece: TeacherView, reading: Reading) -> TeacherView:
    """What a teacher says of its texts, as of the whole batch.

    Args:
        piece: what it says of :func:`part_of` a reading.
        reading: of the whole batch.
    """
    some, batch = reading.some, len(reading.student.ids)
    if some is None or len(some.rows) == batch:
        return piece

    def spread(x: Tensor, dim: int = 0) -> Tensor:
        return _spread(x, some.rows, batch, dim)

    attention, heads, bits = piece.attention, piece.attention_heads, piece.bits_per_char
    output, foretold = piece.output, piece.foretold
    if output is not None:
        assert reading.tokens is not None
        hidden = spread(output.hidden)
        output = Output(reading.tokens, hidden, output.head, output.vocabulary)
    if foretold is not None:
        assert reading.tokens is not None
        foretold = ForetoldTokens(reading.tokens, spread(foretold.log_probs))
    kv = None
    if piece.kv is not None:
        kv = KV(spread(piece.kv.k, 1), spread(piece.kv.v, 1), reading.mask)
    return TeacherView(
        name=piece.name,
        kv=kv,
        alignment=reading.alignment,
        causal=reading.causal,
        attention=None if attention is None else spread(attention, 1),
        attention_heads=None if heads is None else spread(heads, 2),
        bits_per_char=None if bits is None else spread(bits),
        origin=reading.origin,
        foretold=foretold,
        output=output,
        states={kind: spread(x, 1) for kind, x in piece.states.items()},
    )


def unasked(
    teacher: Teacher, reading: Reading, asked: Asked, dtype: torch.dtype
) -> TeacherView:
    """What stands for a teacher that is asked about no text of a batch.

    Args:
        teacher: who rests.
        reading: from :func:`read_some`, of no text.
        asked: what the phase asks of it.
        dtype: of its keys and values; that of the others, which they are fused with.
    """
    sizes, home = teacher.sizes, reading.student.ids.device
    kv = None
    if asked.kv:
        shape = (len(asked.layers), len(reading.mask), sizes.heads, 1)
        kv = KV(
            torch.zeros(*shape, sizes.k_dim, dtype=dtype, device=home),
            torch.zeros(*shape, sizes.v_dim, dtype=dtype, device=home),
            reading.mask,
        )
    return TeacherView(
        name=teacher.name, kv=kv, alignment=reading.alignment, causal=reading.causal
    )


@contextmanager
def by_teacher(reading: Reading) -> Iterator[None]:
    """Tell the time of this block by its teacher, where texts are chosen for it."""
    if reading.some is None:
        yield
        return
    with part(ASKING + reading.name):
        yield


def _unread(
    teacher: Teacher, student: TokenBatch, asked: Asked, rows: Tensor
) -> Reading:
    """One token a text, which holds nothing."""
    batch, length = student.ids.shape
    none = student.ids.new_zeros(0)
    pairs = Alignment(none, none, none.float(), (batch, length, 1))
    blank = TokenBatch(
        student.ids.new_zeros(batch, 1),
        student.mask.new_zeros(batch, 1),
        student.spans.new_zeros(batch, 1, 2),
        student.texts,
    )
    return Reading(
        name=teacher.name,
        student=student,
        tokens=blank,
        alignment=pairs,
        causal=pairs if teacher.causal else None,
        mask=blank.mask,
        kv=asked.kv,
        some=SomeTexts(rows, None),
    )


def _spread(x: Tensor, rows: Tensor, batch: int, dim: int = 0) -> Tensor:
    """(..., k, ...) to (..., B, ...), zeros on the other texts."""
    shape = list(x.shape)
    shape[dim] = batch
    return x.new_zeros(shape).index_copy_(dim, rows, x)


def _spread_pairs(pairs: Alignment, rows: Tensor, batch: int) -> Alignment:
    """Pairs of some texts' tokens, as those of the whole batch."""
    _, student, teacher = pairs.shape

    def moved(index: Tensor, width: int) -> Tensor:
        width = max(width, 1)
        return rows[index // width] * width + index % width

    return replace(
        pairs,
        rows=moved(pairs.rows, student),
        cols=moved(pairs.cols, teacher),
        shape=(batch, student, teacher),
    )
