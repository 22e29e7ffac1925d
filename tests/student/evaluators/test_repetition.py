import pytest

from student.evaluators.repetition import repetition


def test_repetition_is_the_share_of_runs_that_came_before_by_hand():
    # 1 2 1 2 1 2: runs of two are 12 21 12 21 12, two of five new
    assert repetition([1, 2, 1, 2, 1, 2], 2) == pytest.approx(3 / 5)
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([7] * 8) == pytest.approx(4 / 5)  # five runs of four, one new
    assert repetition([1, 2, 3]) is None


def test_words_count_as_tokens_do():
    assert repetition(["a", "b", "c", "d"]) == 0
    assert repetition(["a", "b", "c", "d", "a", "b", "c", "d"]) == pytest.approx(1 / 5)
    assert repetition(["no", "no", "no", "no", "no", "no"]) == pytest.approx(2 / 3)
    assert repetition(["three", "words", "only"]) is None
