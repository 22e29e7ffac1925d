"""The aligners as their definitions say, dense and slow, for one text at a time.

Nothing here is shared with the code that it checks: what a token has read is found
character by character.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(eq=False)
class Reading:
    """One text in one vocabulary, padding and special tokens included."""

    spans: np.ndarray
    """(T, 2)."""
    size: int
    """Characters of the text."""

    def __post_init__(self):
        far = len(self.spans)
        self.first = np.full(self.size, far)  # token that first touches a character
        self.last = np.full(self.size, -1)  # token after which it is read whole
        for token, (start, end) in enumerate(self.spans.tolist()):
            self.first[start:end] = np.minimum(self.first[start:end], token)
            self.last[start:end] = token
        self.text = self.spans[:, 1] > self.spans[:, 0]
        # of the characters [0, e) each token has read whole, and touched at all
        self.whole = np.zeros(far, dtype=np.int64)
        self.touched = np.zeros(far, dtype=np.int64)
        for token in np.flatnonzero(self.text).tolist():
            own = self.spans[token, 1]
            open_ = np.flatnonzero((self.last > token)[:own])
            self.whole[token] = open_[0] if len(open_) else own
            self.touched[token] = np.flatnonzero(self.first <= token)[-1] + 1
        # a character which the student drops counts as read with the token after it
        self.known_at = self.last.copy()
        after = far
        for char in range(self.size - 1, -1, -1):
            if self.last[char] < 0:
                self.known_at[char] = after
            else:
                after = self.first[char]


@lru_cache(maxsize=16)  # several definitions are asked about the texts of a pair
def iou(s: Reading, t: Reading) -> np.ndarray:
    one, two = (x.spans.astype(np.float64) for x in (s, t))
    start = np.maximum(one[:, None, 0], two[None, :, 0])
    end = np.minimum(one[:, None, 1], two[None, :, 1])
    shared = np.maximum(end - start, 0)
    size = [np.diff(spans, axis=1)[:, 0] for spans in (one, two)]
    union = size[0][:, None] + size[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def rows_to_one(weights: np.ndarray) -> np.ndarray:
    total = weights.sum(1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


@lru_cache(maxsize=16)
def readable(s: Reading, t: Reading) -> np.ndarray:
    """(T_s, T_t) bool: the teacher token has read no further."""
    allowed = t.touched[None] <= s.whole[:, None]
    return allowed & s.text[:, None] & t.text[None]


def last_of(marked: np.ndarray) -> np.ndarray:
    """The last True of each row alone, as weights."""
    out = np.zeros(marked.shape)
    rows = np.flatnonzero(marked.any(1))
    if not len(rows):
        return out
    out[rows, marked.shape[1] - 1 - marked[rows, ::-1].argmax(1)] = 1
    return out


def char_iou(s: Reading, t: Reading) -> np.ndarray:
    return rows_to_one(iou(s, t))


def causal_char_iou(s: Reading, t: Reading) -> np.ndarray:
    overlap, allowed = iou(s, t), readable(s, t)
    weights = np.where(allowed, overlap, 0)
    late = overlap.any(1) & ~weights.any(1)
    return rows_to_one(weights + last_of(allowed & late[:, None]))


def last_token(s: Reading, t: Reading) -> np.ndarray:
    text_end = t.spans[t.text, 1].max(initial=0)
    inside = s.spans[:, 0] < text_end
    return last_of(readable(s, t) & inside[:, None])


def chunk_end(s: Reading, t: Reading) -> np.ndarray:
    ends = [x.text & (x.whole == x.touched) for x in (s, t)]
    same = s.spans[:, None, 1] == t.spans[None, :, 1]
    return last_of(same & ends[0][:, None] & ends[1][None])


def leaks(
    s: Reading, t: Reading, rows: np.ndarray, cols: np.ndarray
) -> list[tuple[int, int]]:
    """The pairs through which the student token sees a character it has not read."""
    needs = np.full(len(t.spans) + 1, -1)  # latest student token a teacher token needs
    np.maximum.at(needs, t.first, s.known_at)
    needs = np.maximum.accumulate(needs)
    late = needs[cols] > rows
    return list(zip(rows[late].tolist(), cols[late].tolist(), strict=True))
