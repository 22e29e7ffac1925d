"""Whether what a model writes is still text: how long it is, and how it repeats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from student.evaluators.repetition import ngrams, repetition


def distinct(texts: Iterable[Sequence[int]], n: int = 2) -> float | None:
    """Distinct n-grams of all texts over their n-grams; None where there is none.

    Source:
        Li et al. 2016, A Diversity-Promoting Objective Function (arXiv 1510.03055),
        distinct-n; it falls as more is written, so compare buffers of one size.
    """
    grams = [gram for ids in texts for gram in ngrams(ids, n)]
    return len(set(grams)) / len(grams) if grams else None


def look_of(texts: Sequence[Sequence[int]], ended: Sequence[bool]) -> dict[str, float]:
    """What a metrics line says of texts that were written.

    Args:
        texts: the new tokens of each, its end left out.
        ended: whether each came to an end by itself.

    Returns:
        ``texts``, mean ``length`` in tokens, the shares that are ``empty`` and that
        ``ended``, mean ``repetition``, and ``distinct``; those that can be told.
    """
    count = len(texts)
    if not count:
        return {"texts": 0}
    look = {
        "texts": count,
        "length": sum(map(len, texts)) / count,
        "empty": sum(not ids for ids in texts) / count,
        "ended": sum(ended) / count,
    }
    repeated = [share for ids in texts if (share := repetition(ids)) is not None]
    if repeated:
        look["repetition"] = sum(repeated) / len(repeated)
    different = distinct(texts)
    return look if different is None else look | {"distinct": different}
