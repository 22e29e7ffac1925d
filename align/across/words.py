"""Find which words translate which, from the sentences alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NOTHING = 0
"""The word that stands for no word at all, in every sentence that explains another."""


def linked_words(
    sources: Sequence[str], targets: Sequence[str], passes: int = 5
) -> list[list[tuple[int, int]]]:
    """Link the words of sentences and their translations.

    A word of each side is explained by its likeliest one of the other, under word
    translation probabilities learned from all sentences; links are those on which both
    directions agree. Case aside, a word is what stands between blanks.

    Args:
        sources: n sentences.
        targets: their translations.
        passes: of expectation maximisation, >= 1.

    Returns:
        For each pair (word of the source, word of the target), counted from 0,
        ascending.

    Source:
        IBM Model 1 with an empty word (Brown et al., 1993), from uniform probabilities;
        intersection of both directions (Och and Ney, 2003).
    """
    ours, theirs = _numbered(sources), _numbered(targets)
    forward = _explained(_Meetings.of(ours, theirs), passes)
    backward = _explained(_Meetings.of(theirs, ours), passes)
    both = forward & {(n, i, j) for n, j, i in backward}
    links: list[list[tuple[int, int]]] = [[] for _ in sources]
    for n, i, j in sorted(both):
        links[n].append((i, j))
    return links


def _numbered(texts: Sequence[str]) -> list[Ints]:
    """The words of each text as numbers from 1."""
    known: dict[str, int] = {}
    return [
        np.array(
            [known.setdefault(w, len(known) + 1) for w in text.lower().split()],
            np.int64,
        )
        for text in texts
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Meetings:
    """Every word of a sentence with every word of its translation, in one row."""

    pair: Ints
    """(N,) the sentence."""
    source: Ints
    """(N,) the place of the word that explains, from 1; 0 is no word."""
    target: Ints
    """(N,) the place of the word that is explained, from 0."""
    word: Ints
    """(N,) the number of the word that explains."""
    kind: Ints
    """(N,) which two words these are, whatever the sentence."""
    token: Ints
    """(N,) the word that is explained, counted over all sentences; ascending."""

    @classmethod
    def of(cls, sources: Sequence[Ints], targets: Sequence[Ints]) -> _Meetings:
        columns: list[list[Ints]] = [[] for _ in range(6)]
        before = 0
        for n, (source, target) in enumerate(zip(sources, targets, strict=True)):
            words = np.concatenate([[NOTHING], source]).astype(np.int64)
            at, by = np.indices((len(target), len(words))).reshape(2, -1)
            row = (np.full(len(at), n), by, at, words[by], target[at], at + before)
            before += len(target)
            for column, values in zip(columns, row, strict=True):
                column.append(values)
        pair, source_at, target_at, word, explained, token = (
            np.concatenate([np.zeros(0, np.int64), *column]) for column in columns
        )
        both = word * (int(explained.max(initial=0)) + 1) + explained
        kind = np.unique(both, return_inverse=True)[1].reshape(-1)
        return cls(
            pair=pair,
            source=source_at,
            target=target_at,
            word=word,
            kind=kind,
            token=token,
        )


def _explained(meetings: _Meetings, passes: int) -> set[tuple[int, int, int]]:
    """(sentence, word that explains, word that it explains best), none of no word."""
    if not len(meetings.kind):
        return set()
    kinds = int(meetings.kind.max()) + 1
    of_kind = np.zeros(kinds, np.int64)
    of_kind[meetings.kind] = meetings.word
    probability: Floats = np.ones(kinds)
    for _ in range(passes):
        likely = probability[meetings.kind]
        likely /= np.bincount(meetings.token, likely)[meetings.token]
        counts = np.bincount(meetings.kind, likely, minlength=kinds)
        probability = counts / np.bincount(of_kind, counts)[of_kind]
    order = np.lexsort((-meetings.source, probability[meetings.kind], meetings.token))
    last = np.append(np.flatnonzero(np.diff(meetings.token)), len(order) - 1)
    best = order[last]  # of equals the first word of the sentence
    best = best[meetings.source[best] > 0]
    return set(
        zip(
            meetings.pair[best].tolist(),
            (meetings.source[best] - 1).tolist(),
            meetings.target[best].tolist(),
            strict=True,
        )
    )
