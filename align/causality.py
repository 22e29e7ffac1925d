"""Whether an alignment lets a student read its own future."""

from __future__ import annotations

from align.time_align import Alignment
from align.tokens import TokenBatch


def check_causal(
    alignment: Alignment, student: TokenBatch, teacher: TokenBatch
) -> None:
    """Refuse an alignment through which a student could read its own future.

    A teacher token's keys and values have read everything up to its end. A student
    token may receive them only where it has itself read that far, whole characters
    counted; otherwise its next-token loss is cheated.

    Raises:
        ValueError: naming the first pair that leaks.
    """
    _, students, teachers = alignment.shape
    known = student.complete_until.reshape(-1).to(alignment.rows.device)
    seen = teacher.touched_until.reshape(-1).to(alignment.rows.device)
    leaks = (seen[alignment.cols] > known[alignment.rows]).nonzero()
    if not len(leaks):
        return
    pair = int(leaks[0])
    row, col = int(alignment.rows[pair]), int(alignment.cols[pair])
    sample, token = divmod(row, students)
    text = student.texts[sample]
    start, end = student.spans[sample, token].tolist()
    t_start, t_end = teacher.spans[col // teachers, col % teachers].tolist()
    raise ValueError(
        f"sample {sample}: student token {token} {text[start:end]!r} has read "
        f"{int(known[row])} whole characters, but is fed by teacher token "
        f"{col % teachers} {text[t_start:t_end]!r}, which has read {int(seen[col])}: "
        "the future leaks; use the aligner 'causal_char_iou' or 'last_token'"
    )
