"""Other ways to align two tokenizations, written anew from their descriptions.

Each takes the ids of one text in both vocabularies and returns links: pairs of
(student token, teacher token) that it takes for the same piece of text.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Links = set[tuple[int, int]]
Ids = list[int]


def surface(tokenizer: Any, ids: Ids) -> list[str]:
    """Printed pieces with the families' marks for a blank made alike."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return [p.replace("Ġ", "▁").replace("Ċ", "\n").removeprefix("##") for p in pieces]


def edit_distance_path(student: Any, teacher: Any, s_ids: Ids, t_ids: Ids) -> Links:
    """Dynamic programming over whole sequences, edit distance between pieces.

    Source:
        Fu et al. (2023) and FuseLLM (Wan et al., 2024, section 3.2): dynamic time
        warping whose step cost is the edit distance of the two pieces.
    """
    left, right = surface(student, s_ids), surface(teacher, t_ids)
    distance = cache(_levenshtein)
    rows, cols = len(left), len(right)
    total = np.full((rows + 1, cols + 1), np.inf)
    total[0, 0] = 0
    for i, piece in enumerate(left):
        for j, other in enumerate(right):
            best = min(total[i, j], total[i, j + 1], total[i + 1, j])
            total[i + 1, j + 1] = distance(piece, other) + best
    links, i, j = set(), rows, cols
    while i and j:
        links.add((i - 1, j - 1))
        steps = (total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
        best_step = steps.index(min(steps))
        i, j = ((i - 1, j - 1), (i - 1, j), (i, j - 1))[best_step]
    return links


def _levenshtein(a: str, b: str) -> int:
    if a == b:
        return 0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y)),
            )
    return row[-1]


def reencoded_tokens(student: Any, teacher: Any, s_ids: Ids, t_ids: Ids) -> Links:
    """Decode each student token alone and encode it in the teacher's vocabulary.

    Source:
        Cache-to-Cache (Fu et al., 2025): every token is decoded and re-encoded, and
        the longest of the resulting tokens stands for it. The description gives no
        places in the teacher's own sequence, so wherever that holds the token counts
        as a link.
    """
    places: dict[int, list[int]] = {}
    for j, id_ in enumerate(t_ids):
        places.setdefault(id_, []).append(j)
    links: Links = set()
    for i, id_ in enumerate(s_ids):
        again = teacher.encode(student.decode([id_]), add_special_tokens=False)
        if again:
            longest = max(again, key=lambda other: len(teacher.decode([other])))
            links |= {(i, j) for j in places.get(longest, [])}
    return links


def decoded_prefixes(student: Any, teacher: Any, s_ids: Ids, t_ids: Ids) -> Links:
    """Decode every prefix of both sequences; equal prefixes end a common group.

    Source:
        The first version of generalised on-policy logit distillation (Patino et al.,
        2025): tokens between two common ends form a group on either side.
    """
    ends = [
        {tokenizer.decode(ids[: n + 1]): n for n in range(len(ids))}
        for tokenizer, ids in ((student, s_ids), (teacher, t_ids))
    ]
    common = sorted((ends[0][p], ends[1][p]) for p in ends[0].keys() & ends[1].keys())
    links: Links = set()
    i = j = 0
    for s_end, t_end in common:
        if s_end < i or t_end < j:
            continue
        links |= {(a, b) for a in range(i, s_end + 1) for b in range(j, t_end + 1)}
        i, j = s_end + 1, t_end + 1
    return links


def dense_iou(s_spans: NDArray[np.int64], t_spans: NDArray[np.int64]) -> Any:
    """(T_s, T_t) float64 intersection over union of every pair, rows summing to 1."""
    start = np.maximum(s_spans[:, None, 0], t_spans[None, :, 0])
    end = np.minimum(s_spans[:, None, 1], t_spans[None, :, 1])
    shared = np.maximum(end - start, 0)
    size_s, size_t = (x[:, 1] - x[:, 0] for x in (s_spans, t_spans))
    iou = shared / np.maximum(size_s[:, None] + size_t[None] - shared, 1)
    total = iou.sum(1, keepdims=True)
    return np.divide(iou, total, out=np.zeros_like(iou), where=total > 0)
