"""The measurements behind ``alignment.py``."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from align import (
    ByteLengths,
    CausalCharIoUAligner,
    CharIoUAligner,
    TokenBatch,
    encode_batch,
)
from experiments.bench.alignment import peers as _peers
from experiments.bench.alignment.chats import counting
from experiments.bench.alignment.tokenizers import (
    ascii_texts,
    mixed_texts,
    real_tokenizers,
    trained_tokenizers,
)
from experiments.bench.measure import Bar, paired_ratio, seconds, show

BATCH, CHARS = 64, 2048
BYTE_LEVEL, OTHERWISE = 1.15, 1.7
GROWTH, BYTES, APPLY = 4.5, 200, 0.05
TABLES = ((0, 1), (1, 2), (0, 3))
"""Pairs, by place, in which both sides have a table of byte lengths."""
OFFSETS = ((0, 4), (4, 5), (3, 5))
"""Pairs in which one or both need offsets."""
WIDTH = 2048
"""Features of one token's keys in the product that applies an alignment."""


class Side:
    """A tokenizer with its table of byte lengths."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        """Read the table once, as the platform does."""
        self.name, self.tokenizer = name, tokenizer
        self.table = ByteLengths.of(tokenizer)

    def __call__(self, texts: list[str]) -> TokenBatch:
        """Encode with spans."""
        return encode_batch(self.tokenizer, texts, byte_lengths=self.table)

    def text_only(self, text: str) -> TokenBatch:
        """Encode one text without special tokens around it."""
        return encode_batch(self.tokenizer, [text], None, False, self.table)

    def alone(self, texts: list[str]) -> object:
        """The baseline: the library's fastest call, without spans."""
        return self.tokenizer.backend_tokenizer.encode_batch_fast(texts)


def measure(folder: Path | None) -> bool:
    """Measure and print; True where all bars are kept.

    Args:
        folder: holds ``tokenizers/<name>/tokenizer.json``; None trains small ones.
    """
    torch.set_num_threads(1)
    sides = _sides(folder)
    names = list(sides)
    _check_equal(sides, [*ascii_texts(2, 700), *mixed_texts(2, 700)])
    student, teacher = sides[names[0]], sides[names[1]]
    _compare(student, teacher)
    texts = ascii_texts(BATCH, CHARS)
    bars = []
    for pairs, limit, rounds in ((TABLES, BYTE_LEVEL, 41), (OFFSETS, OTHERWISE, 9)):
        for student_at, teacher_at in pairs:
            pair = names[student_at], names[teacher_at]
            both = sides[pair[0]], sides[pair[1]]
            for label, aligner in _aligners():
                name = f"{label}, {pair[0]} and {pair[1]}: tokenise + align"
                cost = _cost(*both, aligner, texts, rounds)
                bars.append(Bar(f"{name} / tokenise", cost, limit))
    bars += _growth(student, teacher)
    bars += _memory(student, teacher, texts)
    bars.append(_apply(student, teacher))
    bars.append(counting(student.tokenizer))
    return show(bars)


def _aligners() -> list[tuple[str, Callable[[TokenBatch, TokenBatch], Any]]]:
    return [("IoU", CharIoUAligner()), ("causal", CausalCharIoUAligner())]


def _sides(folder: Path | None) -> dict[str, Side]:
    if folder is None:
        print("tokenizers: trained here, small vocabularies")
        tokenizers = trained_tokenizers(ascii_texts(60, 4000) + mixed_texts(20, 4000))
    else:
        print(f"tokenizers: {folder / 'tokenizers'}")
        tokenizers = real_tokenizers(folder)
    return {name: Side(name, tokenizer) for name, tokenizer in tokenizers.items()}


def _check_equal(sides: dict[str, Side], texts: list[str]) -> None:
    """Refuse to measure anything that differs from the definition.

    Raises:
        AssertionError: naming the pair and the text.
    """
    batches = {name: side(texts) for name, side in sides.items()}
    for name, side in sides.items():
        slow = encode_batch(side.tokenizer, texts)
        assert torch.equal(slow.spans, batches[name].spans), name
    for student_name, student in batches.items():
        for two, teacher in batches.items():
            weights = CharIoUAligner()(student, teacher).dense().numpy()
            for row in range(len(texts)):
                spans = student.spans[row].numpy(), teacher.spans[row].numpy()
                same = np.allclose(weights[row], _peers.dense_iou(*spans), atol=1e-6)
                assert same, f"{student_name} and {two} on {texts[row][:40]!r}"
    pairs = len(batches) ** 2
    print(f"equal to the dense definition: {pairs} pairs on {len(texts)} texts\n")


def _cost(
    student: Side, teacher: Side, aligner: Any, texts: list[str], rounds: int
) -> float:
    def candidate() -> None:
        aligner(student(texts), teacher(texts))

    def baseline() -> object:
        return student.alone(texts), teacher.alone(texts)

    return paired_ratio(candidate, baseline, rounds)


def _growth(student: Side, teacher: Side) -> list[Bar]:
    """Four times the text, in one row."""
    bars = []
    long, short = ascii_texts(1, 32_000), ascii_texts(1, 8_000)
    for label, aligner in _aligners():

        def both(texts: list[str], aligner: Any = aligner) -> None:
            for _ in range(4):
                aligner(student(texts), teacher(texts))

        ratio = paired_ratio(partial(both, long), partial(both, short), 9)
        bars.append(Bar(f"{label}: t(32k characters) / t(8k)", ratio, GROWTH))
    return bars


def _memory(student: Side, teacher: Side, texts: list[str]) -> list[Bar]:
    """Peak bytes for each token of both sides, the results included."""
    bars = []
    for label, aligner in _aligners():
        batches = student(texts), teacher(texts)
        tokens = sum(int(batch.mask.sum()) for batch in batches)
        tracemalloc.start()
        aligner(*batches)
        aligned = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        aligner(student(texts), teacher(texts))
        whole = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        bars.append(Bar(f"{label}: align, bytes a token", aligned / tokens, BYTES))
        name = f"{label}: tokenise + align, bytes a token"
        bars.append(Bar(name, whole / tokens, BYTES))
    return bars


def _apply(student: Side, teacher: Side) -> Bar:
    """Carry one layer's keys over, sparse against the dense product."""
    text = ascii_texts(1, 32_000)[0]
    batches = [
        encode_batch(side.tokenizer, [text], 2048) for side in (student, teacher)
    ]
    alignment = CharIoUAligner()(*batches)
    matrix = alignment.dense()
    keys = torch.randn(1, matrix.shape[2], WIDTH)
    torch.testing.assert_close(alignment.apply(keys), matrix @ keys)
    sparse = partial(alignment.apply, keys)
    ratio = paired_ratio(sparse, lambda: matrix @ keys)
    sizes = " x ".join(map(str, matrix.shape[1:]))
    return Bar(f"apply {sizes} to {WIDTH} features: sparse / dense", ratio, APPLY)


def _compare(student: Side, teacher: Side) -> None:
    """Print what other ways cost and find, beside ours."""
    print(f"other ways, {student.name} and {teacher.name}: cost over tokenising both,")
    print("and the share found of the pairs that hold the same characters")
    print(f"{'':<24}{'512 ch':>9}{'2,048 ch':>10}{'ASCII':>9}{'mixed':>9}")
    pair = student.tokenizer, teacher.tokenizer
    ways: dict[str, Callable[[TokenBatch, TokenBatch], Any]] = {
        "edit-distance path": partial(_by_ids, _peers.edit_distance_path, pair),
        "per-token re-encoding": partial(_by_ids, _peers.reencoded_tokens, pair),
        "prefix decoding": partial(_by_ids, _peers.decoded_prefixes, pair),
        "dense IoU": _by_spans,
        "sweep, IoU": _by_sweep,
    }
    texts = {size: ascii_texts(1, size)[0] for size in (512, 2048)}
    for name, way in ways.items():
        shown = []
        for size, text in texts.items():
            if name == "edit-distance path" and size > 1024:
                shown.append("-")  # quadratic, minutes
                continue
            batches = student.text_only(text), teacher.text_only(text)
            base = partial(_tokenise, student, teacher, [text])
            cost = _best(partial(_only_align, name, way, batches), 3) / _best(base, 9)
            shown.append(f"{cost:.2f}")
        for text in (texts[512], mixed_texts(1, 512)[0]):
            batches = student.text_only(text), teacher.text_only(text)
            shown.append(f"{_recovered(way, *batches):.1%}")
        print(f"{name:<24}{shown[0]:>9}{shown[1]:>10}{shown[2]:>9}{shown[3]:>9}")
    print()


def _tokenise(student: Side, teacher: Side, texts: list[str]) -> None:
    student.alone(texts)
    teacher.alone(texts)


def _best(work: Callable[[], object], turns: int) -> float:
    return min(seconds(work) for _ in range(turns))


def _only_align(name: str, way: Any, batches: tuple[TokenBatch, TokenBatch]) -> object:
    """A way without gathering its links in a Python set, where that is separate."""
    if name == "sweep, IoU":
        return CharIoUAligner()(*batches)
    if name == "dense IoU":
        return _peers.dense_iou(*(batch.spans[0].numpy() for batch in batches))
    return way(*batches)


def _by_ids(way: Any, pair: Any, s: TokenBatch, t: TokenBatch) -> _peers.Links:
    links: _peers.Links = way(*pair, s.ids[0].tolist(), t.ids[0].tolist())
    return links


def _by_spans(s: TokenBatch, t: TokenBatch) -> _peers.Links:
    dense = _peers.dense_iou(s.spans[0].numpy(), t.spans[0].numpy())
    return {(int(i), int(j)) for i, j in np.argwhere(dense > 0)}


def _by_sweep(s: TokenBatch, t: TokenBatch) -> _peers.Links:
    alignment = CharIoUAligner()(s, t)
    return set(zip(alignment.rows.tolist(), alignment.cols.tolist(), strict=True))


def _recovered(way: Any, s: TokenBatch, t: TokenBatch) -> float:
    places: dict[tuple[int, ...], list[int]] = {}
    for col, span in enumerate(t.spans[0].tolist()):
        places.setdefault(tuple(span), []).append(col)
    same = {
        (row, col)
        for row, span in enumerate(s.spans[0].tolist())
        if span[1] > span[0]
        for col in places.get(tuple(span), [])
    }
    return len(same & way(s, t)) / max(1, len(same))
