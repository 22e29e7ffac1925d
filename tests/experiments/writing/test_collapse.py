import pytest

from experiments.writing.collapse import distinct, look_of


def test_distinct_pairs_are_counted_over_all_texts():
    # 12 23 and 12: two of three differ
    assert distinct([[1, 2, 3], [1, 2]]) == pytest.approx(2 / 3)
    assert distinct([[1], []]) is None


def test_a_look_at_texts_leaves_out_what_none_can_tell():
    assert look_of([], []) == {"texts": 0}
    assert look_of([[1], []], [False, True]) == {
        "texts": 2,
        "length": 0.5,
        "empty": 0.5,
        "ended": 0.5,
    }
    assert look_of([[7] * 8, [1, 2, 3, 4]], [False, False])["repetition"] == 0.4
