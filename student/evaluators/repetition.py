"""How much of what is written says the same again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

REPEATED = 4
"""Tokens or words in a row that count as repeated where they come again in a text."""


def repetition(units: Sequence[Hashable], n: int = REPEATED) -> float | None:
    """Share of a text's n-grams, of tokens or words, that it holds already; None where
    it has none.

    Source:
        Welleck et al. 2020, Neural Text Generation with Unlikelihood Training (arXiv
        1908.04319), seq-rep-n: 1 - distinct n-grams / n-grams, of one continuation.
    """
    grams = ngrams(units, n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def ngrams(units: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """Every n of a text's tokens or words that stand in a row."""
    return [tuple(units[at : at + n]) for at in range(len(units) - n + 1)]
