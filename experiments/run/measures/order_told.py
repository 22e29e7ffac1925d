"""What a phase has read of its texts, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from align.text.documents import TextSample
from student.curriculum.groups import ranked
from student.curriculum.scores import Scores

PARTS = 20
"""Parts of a phase for which reading is told."""
BANDS = 5
"""Bands of difficulty, each a fifth of all texts."""
NAMED = 5
"""Texts of a domain that are named where they were never read."""


def what_was_read(
    read: Sequence[Sequence[int]],
    samples: Sequence[TextSample],
    scores: Scores,
    difficulty: str,
) -> dict[str, Any]:
    """Count what a phase has read.

    Args:
        read: numbers of the texts of every step.
        samples: N texts.
        scores: as they were when the phase began.
        difficulty: by which texts are told apart.

    Returns:
        ``difficulty``; ``bands``, for each of ``PARTS`` parts of the phase the share of
        each band of difficulty from easy to hard, as of the first scores; ``domains``,
        the same by name; ``reads``, the least, mean and most readings of a text;
        ``never``, by domain how many texts were never read, with ids of the first.
    """
    band = np.minimum((ranked(scores.difficulty(difficulty)) * BANDS), BANDS - 1)
    band = band.astype(np.int64)
    names = list(dict.fromkeys(sample.domain for sample in samples))
    place = {name: number for number, name in enumerate(names)}
    domain = np.array([place[sample.domain] for sample in samples])
    times = np.zeros(len(samples), dtype=np.int64)
    bands, domains = [], []
    for part in np.array_split(np.arange(len(read)), min(PARTS, len(read))):
        numbers = np.concatenate([np.asarray(read[step]) for step in part])
        np.add.at(times, numbers, 1)
        bands.append(_shares(band[numbers], BANDS))
        domains.append(_shares(domain[numbers], len(names)))
    never = {}
    for name in names:
        left = [
            s.id
            for s, n in zip(samples, times, strict=True)
            if s.domain == name and not n
        ]
        if left:
            never[name] = {"texts": len(left), "first": left[:NAMED]}
    return {
        "difficulty": difficulty,
        "bands": bands,
        "domains": {
            name: [row[number] for row in domains] for name, number in place.items()
        },
        "reads": {
            "least": int(times.min()),
            "mean": round(float(times.mean()), 3),
            "most": int(times.max()),
        },
        "never": never,
    }


def _shares(numbers: np.ndarray, count: int) -> list[float]:
    counted = np.bincount(numbers, minlength=count) / max(1, len(numbers))
    return [round(float(share), 4) for share in counted]
