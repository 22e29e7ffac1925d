"""What is known of texts, and what makes one hard."""

import math

import pytest
import torch

from align.errors import InputError
from student.curriculum.scores import DIFFICULTIES, Scores, needs_of, unknown_to_all

NAN = math.nan


def scores(**columns):
    every = {name: torch.tensor(x, dtype=torch.float64) for name, x in columns.items()}
    return Scores(domains=["a", "a", "b"], teachers=["one", "two"], columns=every)


def test_teachers_are_averaged_where_they_know():
    known = scores(
        teacher_bits=[[1.0, 3.0], [2.0, NAN], [NAN, NAN]], student_bits=[5.0, 5.0, 5.0]
    )
    assert known.difficulty("teacher_bits").tolist()[:2] == [2.0, 2.0]
    assert known.difficulty("gap").tolist()[:2] == [3.0, 3.0]
    assert math.isnan(known.difficulty("gap")[2])
    assert unknown_to_all(known, ["student_bits", "teacher_bits"]) == []
    silent = scores(divergence=[[NAN, NAN]] * 3)
    assert unknown_to_all(silent, ["divergence"]) == ["divergence"]


def test_what_was_not_measured_and_what_nobody_knows_is_named():
    with pytest.raises(InputError, match="takes teacher_entropy, which was not"):
        scores(length=[1.0, 2.0, 3.0]).difficulty("entropy")
    with pytest.raises(InputError, match="did you mean 'entropy'"):
        needs_of("entropi")
    with pytest.raises(ValueError, match=r"'teacher_bits'\] has shape \(3,\)"):
        scores(teacher_bits=[1.0, 2.0, 3.0])
    assert needs_of("gap") == {"teacher_bits", "student_bits"}
    assert all(needs_of(name) for name in DIFFICULTIES)
