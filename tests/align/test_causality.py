"""What may be injected: nothing a student has not read, nothing of another text."""

import pytest
import torch

from align.causality import CausalityError, check_causal
from align.time_align import Alignment
from align.tokens.batch import TokenBatch

# "tea un" as te|a| un for the student and tea| un for the teacher, twice
STUDENT = TokenBatch(
    torch.zeros(2, 3, dtype=torch.int64),
    torch.ones(2, 3, dtype=torch.bool),
    torch.tensor([[[0, 2], [2, 3], [3, 6]]] * 2),
    ("tea un", "tea un"),
)
TEACHER = TokenBatch(
    torch.zeros(2, 2, dtype=torch.int64),
    torch.ones(2, 2, dtype=torch.bool),
    torch.tensor([[[0, 3], [3, 6]]] * 2),
    ("tea un", "tea un"),
)


def fed(*pairs):
    rows, cols = zip(*pairs, strict=True)
    return Alignment(
        torch.tensor(rows), torch.tensor(cols), torch.ones(len(rows)), (2, 3, 2)
    )


def test_what_has_been_read_may_feed():
    check_causal(fed((1, 0), (2, 1), (4, 2), (5, 3)), STUDENT, TEACHER)


def test_the_first_leak_is_named_with_its_text_and_tokens():
    told = (
        r"^teacher 'a': sample 1: student token 0 'te' has read 2 whole "
        r"characters, but is fed by teacher token 0 'tea', which has read 3: the "
        r"future leaks"
    )
    with pytest.raises(CausalityError, match=told):
        check_causal(fed((1, 0), (3, 2)), STUDENT, TEACHER, "teacher 'a'")


@pytest.mark.parametrize("pair", [(5, 0), (2, 2)])
def test_another_text_of_the_batch_may_not_feed(pair):
    # both have read no further than the student token, but not of its text
    with pytest.raises(CausalityError, match="learns from its own tokens only"):
        check_causal(fed(pair), STUDENT, TEACHER)


def test_an_alignment_without_pairs_leaks_nothing():
    empty = torch.zeros(0, dtype=torch.int64)
    check_causal(Alignment(empty, empty, torch.zeros(0), (2, 3, 2)), STUDENT, TEACHER)
