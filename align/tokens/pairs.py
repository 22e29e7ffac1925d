"""Sources and targets in one row of tokens, for models with an encoder and a decoder.

A row holds the source as the encoder reads it, one place of padding, the token with
which the decoder starts, and the target: place t predicts the token of place t + 1, as
in a row of any other text, and spans index the source and target joined. So nobody who
reads rows has to know of the two parts, but for whoever runs the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from align.errors import InputError
from align.text.fragment import Fragment, ends
from align.text.prompted import Prompted
from align.time_align import Alignment
from align.tokens.answered import two_parts
from align.tokens.batch import TokenBatch, encode_batch, end_id
from align.tokens.byte_lengths import ByteLengths
from align.tokens.placed import pad_id


def encode_pairs(
    tokenizer: Any,
    texts: Sequence[str],
    start: int,
    max_length: int | None = None,
    byte_lengths: ByteLengths | None = None,
    learn_end: bool | None = None,
) -> TokenBatch:
    """Tokenise sources and targets.

    Blanks before the target belong to neither part: where a decoder reads them as part
    of the first word, an encoder-decoder is given that word as it begins a text.

    Args:
        tokenizer: a fast Hugging Face tokenizer, of sources and targets; one that marks
            targets by other special tokens does.
        texts: B prompts, the sources, with their completions, the targets.
        start: the token that the decoder is given first.
        max_length: most tokens of a row, ``start`` included; None keeps all.
        byte_lengths: as for :func:`align.tokens.batch.encode_batch`.
        learn_end: likewise, of targets; sources end as the tokenizer ends texts.

    Returns:
        The batch. A source holds at least one token.

    Raises:
        InputError: a text has no two parts, or see
            :func:`align.tokens.batch.encode_batch`.
    """
    parts = [_parts(text, row) for row, text in enumerate(texts)]
    most = None if max_length is None else max_length - 1
    sources = encode_batch(
        tokenizer,
        [source for source, _, _ in parts],
        max_length=most,
        byte_lengths=byte_lengths,
    )
    with _of_targets(tokenizer):
        targets = encode_batch(
            tokenizer,
            [target for _, target, _ in parts],
            byte_lengths=byte_lengths,
            learn_end=learn_end,
        )
    end = end_id(tokenizer)
    rows = _Rows(
        start=start,
        nothing=start if end is None else end,
        pad=pad_id(tokenizer),
        most=max_length,
    )
    return rows.of(sources, targets, [before for _, _, before in parts], texts)


def within_parts(
    alignment: Alignment, student: TokenBatch, teacher: TokenBatch
) -> Alignment:
    """Leave out pairs of a source's token and a target's, which an aligner that falls
    back to earlier tokens makes where a target begins.

    Args:
        alignment: teacher -> student.
        student: (B, T_s) tokens.
        teacher: (B, T_t) tokens of the same texts.

    Returns:
        The same alignment where not both read sources and targets apart; else the pairs
        within one part, whose weights sum to 1 for each student token.
    """
    ours, theirs = (two_parts(x.mask)[1] for x in (student, teacher))
    if not bool(ours.any() & theirs.any()):
        return alignment
    rows, cols = alignment.rows, alignment.cols
    kept = ours.flatten()[rows] == theirs.flatten()[cols]
    if bool(kept.all()):
        return alignment
    rows, weights, shared = rows[kept], alignment.weights[kept], alignment.shared
    total = weights.new_zeros(ours.numel()).index_add_(0, rows, weights)
    return replace(
        alignment,
        rows=rows,
        cols=cols[kept],
        weights=weights / total[rows],
        shared=None if shared is None else shared[kept],
    )


def target_settings(settings: Any) -> dict[str, Any]:
    """What an encoder-decoder's files say that its targets never hold, or begin with:
    such as Marian's padding, whose logit no training has lowered, and a language.

    Args:
        settings: transformers' ``GenerationConfig``.
    """
    names = ("bad_words_ids", "suppress_tokens", "forced_bos_token_id")
    return {name: getattr(settings, name, None) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """How sources and targets lie in rows."""

    start: int
    """The token before a target."""
    nothing: int
    """The one token of a source that has none."""
    pad: int
    most: int | None
    """Tokens of a row."""

    def of(
        self,
        sources: TokenBatch,
        targets: TokenBatch,
        before: Sequence[int],
        texts: Sequence[str],
    ) -> TokenBatch:
        """Both in one row each.

        Args:
            sources: B of them.
            targets: likewise.
            before: B, the characters before each target.
            texts: B, both joined.
        """
        first, second = (x.mask.sum(1).numpy() for x in (sources, targets))
        empty = first == 0
        first = np.maximum(first, 1)
        if self.most is not None:
            second = np.minimum(second, np.maximum(self.most - first - 1, 0))
        width = int((first + 2 + second).max(initial=0))
        ids = np.full((len(texts), width), self.pad, dtype=np.int64)
        mask = np.zeros((len(texts), width), dtype=np.bool_)
        spans = np.zeros((len(texts), width, 2), dtype=np.int64)
        for row, (s, t) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            behind, stop = s + 2, s + 2 + t
            if empty[row]:
                ids[row, 0] = self.nothing
            else:
                ids[row, :s] = sources.ids[row, :s]
                spans[row, :s] = sources.spans[row, :s]
            ids[row, s + 1], ids[row, behind:stop] = self.start, targets.ids[row, :t]
            mask[row, :s], mask[row, s + 1 : stop] = True, True
            of_target = targets.spans[row, :t].numpy()
            held = of_target[:, 1:] > 0  # special tokens stay where they are
            spans[row, behind:stop] = of_target + held * before[row]
        return TokenBatch(
            torch.from_numpy(ids),
            torch.from_numpy(mask),
            torch.from_numpy(spans),
            tuple(texts),
        )


def _parts(text: str, row: int) -> tuple[str, str, int]:
    """Source, target, and the characters before the latter."""
    if not isinstance(text, Prompted):
        raise InputError(
            f"texts[{row}] {text[:40]!r} is one text, but an encoder-decoder reads a "
            "source and writes a target; give pairs (data.pairs)"
        )
    target = text.completion.lstrip()
    before = len(text) - len(target)
    return text.prompt, target if ends(text) else Fragment(target), before


@contextmanager
def _of_targets(tokenizer: Any) -> Iterator[None]:
    """A tokenizer as transformers sets it for targets, such as their language."""
    to_targets = getattr(tokenizer, "_switch_to_target_mode", lambda: None)
    back = getattr(tokenizer, "_switch_to_input_mode", lambda: None)
    to_targets()
    try:
        yield
    finally:
        back()
