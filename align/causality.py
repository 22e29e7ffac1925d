"""Whether an alignment lets a student read its own future."""

from __future__ import annotations

from collections.abc import Callable

from align.errors import InputError
from align.time_align import Alignment
from align.tokens.batch import TokenBatch


class CausalityError(InputError):
    """Through an alignment a student could read what it has not read yet."""


def check_causal(
    alignment: Alignment, student: TokenBatch, teacher: TokenBatch, who: str = ""
) -> None:
    """Refuse an alignment through which a student could read its own future.

    A teacher token's keys and values have read everything up to its end. A student
    token may receive them only where it has itself read that far, whole characters
    counted; otherwise its next-token loss is cheated. What it has not read at all is
    another sample's text.

    Args:
        alignment: teacher -> student.
        student: (B, T_s) tokens.
        teacher: (B, T_t) tokens of the same texts.
        who: begins the message: whose alignment this is.

    Raises:
        CausalityError: naming the first pair that leaks.
    """
    _, students, teachers = alignment.shape
    rows, cols = alignment.rows, alignment.cols
    if not len(rows):
        return
    student_reads = student.complete_until.reshape(-1).to(rows.device)
    teacher_reads = teacher.touched_until.reshape(-1).to(rows.device)
    leaks = (teacher_reads[cols] > student_reads[rows]) | (
        rows // students != cols // teachers
    )
    if not bool(leaks.any()):
        return
    pair = int(leaks.nonzero()[0])
    sample, token = divmod(int(rows[pair]), students)
    teacher_sample, feeding = divmod(int(cols[pair]), teachers)
    student_piece = _piece(student, sample, token)
    teacher_piece = _piece(teacher, teacher_sample, feeding)
    prefix = f"{who}: " if who else ""
    if sample != teacher_sample:
        raise CausalityError(
            f"{prefix}sample {sample}: student token {token} {student_piece!r} is fed "
            f"by teacher token {feeding} {teacher_piece!r} of sample "
            f"{teacher_sample}: a text learns from its own tokens only; use the "
            "aligner 'causal_char_iou' or 'last_token'"
        )
    raise CausalityError(
        f"{prefix}sample {sample}: student token {token} {student_piece!r} has read "
        f"{int(student_reads[rows[pair]])} whole characters, but is fed by teacher "
        f"token {feeding} {teacher_piece!r}, which has read "
        f"{int(teacher_reads[cols[pair]])}: the future leaks; use the aligner "
        "'causal_char_iou' or 'last_token'"
    )


def injected_alignment(
    alignment: Alignment,
    causal: bool,
    aligner: Callable[[TokenBatch, TokenBatch], Alignment],
    student: TokenBatch,
    teacher: TokenBatch,
    *,
    who: str,
) -> Alignment:
    """The alignment by which a teacher's KV may stand in place of the student's.

    It is checked on every batch: an aligner's word for being causal is not enough.

    Args:
        alignment: that of the losses, teacher -> student.
        causal: whether its aligner says that it is causal; then it serves both.
        aligner: aligns for injection otherwise.
        student: (B, T_s) tokens.
        teacher: (B, T_t) tokens of the same texts.
        who: see :func:`check_causal`.

    Raises:
        CausalityError: the alignment shows the future.
    """
    injected = alignment if causal else aligner(student, teacher)
    check_causal(injected, student, teacher, who)
    return injected


def _piece(batch: TokenBatch, sample: int, token: int) -> str:
    start, end = batch.spans[sample, token].tolist()
    return batch.texts[sample][start:end]
