"""Read a text that is longer than a model's positions in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from align.kv import KV
from align.views import Captured
from teacher.capture.limits import position_limit
from teacher.loading.longer_texts import trained_length

ReadWindow = Callable[[Tensor, Tensor, Tensor | None], Captured]
"""(ids, mask, attention rows) of one window -> what is captured of it."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of ``tokens`` tokens which begin every ``stride`` tokens."""

    tokens: int
    """W, the most tokens the model reads at once, >= 1."""
    stride: int
    """S in 1..W. Every token but those of the first window is read with at least
    W - S tokens before it; the work grows as W / S."""

    def __post_init__(self) -> None:
        """Check that windows leave no gap.

        Raises:
            ValueError: a size out of range.
        """
        if not 1 <= self.stride <= self.tokens:
            raise ValueError(
                f"windows of {self.tokens} tokens every {self.stride}: give "
                "1 <= stride <= tokens"
            )


def windows_for(model: nn.Module) -> Windows | None:
    """Windows as long as a model was trained to read, overlapping by half.

    None where neither a position table nor a rotation sets a length.
    """
    tokens = position_limit(model) or trained_length(model)
    return None if tokens is None else Windows(tokens, max(tokens // 2, 1))


@dataclass(frozen=True, slots=True)
class _Window:
    start: int
    stop: int
    first: int
    """The window gives tokens ``first`` to ``stop``, earlier ones those before it."""


def read_in_windows(
    read: ReadWindow, windows: Windows, ids: Tensor, mask: Tensor, rows: Tensor | None
) -> Captured:
    """Capture a long batch window by window.

    Each token's keys, values, logits, hidden state and attention come from the
    window in which most tokens stand before it: the first that holds it. Ids are cut
    as they are, so only the first window begins with a begin-of-text token, and
    attention beyond a window is 0.

    Args:
        read: captures one window; B may be smaller, T at most ``windows.tokens``.
        windows: their size and distance.
        ids: (B, T) int64.
        mask: (B, T) bool, padding on the right.
        rows: (B, R) int64 query positions in [0, T), or None.

    Returns:
        What one call over the whole text would, (L, B, H, T, D) and so on.

    Raises:
        ValueError: padding is on the left.

    Source:
        The sliding evaluation of Baevski & Auli (2019), arXiv 1809.10853.
    """
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("texts read in windows begin on the left; pad on the right")
    parts = []
    for window in _windows(windows, ids.shape[1]):
        inside = mask[:, window.start : window.stop]
        texts = inside.any(1)
        if not window.start:
            texts = torch.ones_like(texts)
        window_rows = None if rows is None else _within(rows, window)[texts]
        captured = read(
            ids[texts, window.start : window.stop], inside[texts], window_rows
        )
        parts.append((window, texts, captured))
    if len(parts) == 1:
        return parts[0][2]

    def joined(pick: Callable[[Captured], Tensor | None], batch: int, axis: int) -> Any:
        given = []
        for window, texts, captured in parts:
            part = pick(captured)
            if part is None:
                return None
            window_rows = _whole_batch(part, texts, batch)
            skip, count = window.first - window.start, window.stop - window.first
            given.append(window_rows.narrow(axis, skip, count))
        return torch.cat(given, dim=axis)

    return Captured(
        kv=KV(
            joined(lambda captured: captured.kv.k, 1, 3),
            joined(lambda captured: captured.kv.v, 1, 3),
            mask,
        ),
        logits=joined(lambda captured: captured.logits, 0, 1),
        hidden=joined(lambda captured: captured.hidden, 0, 1),
        attention=_attention(parts, rows, ids.shape[1], lambda c: c.attention),
        attention_heads=_attention(
            parts, rows, ids.shape[1], lambda captured: captured.attention_heads
        ),
        states={
            kind: joined(partial(_state, kind=kind), 1, 2)
            for kind in parts[0][2].states
        },
    )


def _state(captured: Captured, kind: str) -> Tensor | None:
    return captured.states[kind]


def _windows(windows: Windows, tokens: int) -> Iterator[_Window]:
    start = first = 0
    while first < tokens:
        stop = min(start + windows.tokens, tokens)
        yield _Window(start, stop, first)
        start, first = start + windows.stride, stop


def _within(rows: Tensor, window: _Window) -> Tensor:
    return (rows - window.start).clamp(0, window.stop - window.start - 1)


def _whole_batch(x: Tensor, texts: Tensor, axis: int) -> Tensor:
    """Zeros for the texts that end before a window."""
    if bool(texts.all()):
        return x
    shape = list(x.shape)
    shape[axis] = len(texts)
    return x.new_zeros(shape).index_copy(axis, texts.nonzero().flatten(), x)


def _attention(
    parts: list[tuple[_Window, Tensor, Captured]],
    rows: Tensor | None,
    tokens: int,
    pick: Callable[[Captured], Tensor | None],
) -> Tensor | None:
    if rows is None:
        return None
    whole = None
    for window, texts, captured in parts:
        attention = pick(captured)
        if attention is None:
            return None
        batch = attention.dim() - 3
        attention = _whole_batch(attention, texts, batch)  # (L, [H,] B, R, window)
        if whole is None:
            whole = attention.new_zeros((*attention.shape[:-1], tokens))
        window_rows = ((rows >= window.first) & (rows < window.stop))[..., None]
        part = torch.where(window_rows, attention, 0)
        padded = torch.nn.functional.pad(part, (window.start, tokens - window.stop))
        whole = whole + padded
    return whole
