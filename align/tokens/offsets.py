"""Spans from a tokenizer's own offsets, with what families get wrong repaired."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np

from align.tokens.placed import Ints, Placed, ids_of

MARKER = "▁"
"""SentencePiece's stand-in for a blank."""


def place_by_offsets(tokenizer: Any, texts: list[str]) -> Placed:
    """Tokenise and repair the spans, without special tokens around the texts.

    Args:
        tokenizer: a fast Hugging Face tokenizer, neither cutting nor padding.
        texts: B texts.
    """
    encodings = tokenizer.backend_tokenizer.encode_batch(
        texts, add_special_tokens=False
    )
    ids, counts = ids_of(tokenizer, encodings)
    is_token = np.arange(ids.shape[1]) < counts[:, None]
    pairs = chain.from_iterable(encoding.offsets for encoding in encodings)
    flat = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * int(counts.sum()))
    offsets = flat.reshape(-1, 2)
    spares = _trimming(tokenizer.backend_tokenizer)
    if spares is not None:
        _give_back(offsets, [encoding.tokens for encoding in encodings], spares)
    repaired = _repair(tokenizer, texts, ids[is_token], offsets, counts)
    spans = np.zeros((*ids.shape, 2), dtype=np.int64)
    full = counts > 0
    spans[full] = repaired[np.cumsum(counts)[full] - 1, 1][:, None, None]
    spans[is_token] = repaired
    return Placed(ids, spans, counts)


def _repair(
    tokenizer: Any, texts: list[str], ids: Ints, spans: Ints, counts: Ints
) -> Ints:
    """Make spans say which characters a token has read.

    - A bare ``▁`` or ``Ġ`` whose span repeats the start of the next token's stands
      before the text, not in it: it has read nothing and gets zero width. Byte tokens
      of one character keep sharing its span.
    - A character that is no blank and that no token claims was composed into the one
      before it, as an accent by NFC, and belongs to that token.
    """
    if not len(spans):
        return spans
    sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    begin = np.cumsum(sizes) - sizes  # all texts in one line, one place between them
    spans = spans + np.repeat(begin, counts)[:, None]
    start, end = spans[:, 0], spans[:, 1]
    following = np.append(start[1:], 0)
    full = counts > 0
    following[np.cumsum(counts)[full] - 1] = (begin + sizes - 1)[full]
    reach = np.maximum.accumulate(end)
    gaps = np.flatnonzero(following > reach)
    if len(gaps):
        line = "\n".join(texts).encode("utf-32-le")
        blank = _BLANKS[np.minimum(np.frombuffer(line, np.uint32), len(_BLANKS) - 1)]
        for token in gaps[~blank[end[gaps]]].tolist():
            stop = int(end[token])
            while stop < following[token] and not blank[stop]:
                stop += 1
            end[token] = stop
    shared = np.flatnonzero(following < end)
    if len(shared):
        distinct, which = np.unique(ids[shared], return_inverse=True)
        pieces = tokenizer.convert_ids_to_tokens(distinct.tolist())
        bare = np.array([not piece.strip(MARKER + _BLANK) for piece in pieces])[which]
        end[shared[bare]] = start[shared[bare]]
    return spans - np.repeat(begin, counts)[:, None]


_BLANKS = np.array([chr(code).isspace() for code in range(0x3001)] + [False])
"""Which code points are blanks; there are none after U+3000."""


def _trimming(backend: Any) -> bool | None:
    """Whether the blank before a text is spared where offsets leave blanks out that
    byte-level tokens have read; None where they leave out none."""
    processor = backend.post_processor
    if processor is None:
        return None
    state = json.loads(processor.__getstate__())
    steps = state["processors"] if state["type"] == "Sequence" else [state]
    trims = [step for step in steps if step.get("trim_offsets")]
    return bool(trims[0].get("add_prefix_space")) if trims else None


def _give_back(spans: Ints, tokens: list[list[str]], spares: bool) -> None:
    """Undo, in place, what trimming took off the spans.

    Trimming moves a token's start over the blanks it begins with, and its end back
    over those it ends with, never past each other; so a token of blanks alone stands
    empty at its end. Where ``spares``, a single blank in front of a text's first
    token stays, for it may have been put there and not be in the text.

    Args:
        spans: (N, 2), of all texts in a row.
        tokens: of each text, as they were matched.
        spares: from :func:`_trimming`.
    """
    blanks: dict[str, tuple[int, int, int]] = {}
    place = 0
    for text in tokens:
        for index, token in enumerate(text):
            if token not in blanks:
                blanks[token] = _blanks_of(token)
            size, lead, trail = blanks[token]
            if lead or trail:
                first = spares and index == 0 and lead == 1
                spans[place, 0] -= lead - first
                if lead == size:
                    spans[place, 1] = spans[place, 0] + size
                else:
                    spans[place, 1] += trail
            place += 1


def _blanks_of(token: str) -> tuple[int, int, int]:
    """Characters of a token, and how many blanks it begins and ends with."""
    kept = [char != _BLANK and not char.isspace() for char in token]
    lead = kept.index(True) if any(kept) else len(kept)
    trail = kept[::-1].index(True) if any(kept) else len(kept)
    return len(kept), lead, trail


_BLANK = "Ġ"
"""The blank in the printable alphabet of :func:`align.tokens.pieces.byte_alphabet`."""
