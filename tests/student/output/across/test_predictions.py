from dataclasses import replace

import torch

from align.text.conversation import Conversation
from align.tokens.batch import TokenBatch
from student.output.across.predictions import same_predictions


def batch(rows: list[list[tuple[int, int, int]]], texts: list[str]) -> TokenBatch:
    """Rows of (id, start, end), padded."""
    width = max(map(len, rows))
    full = [row + [(0, 0, 0)] * (width - len(row)) for row in rows]
    numbers = torch.tensor(full)
    mask = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    return TokenBatch(numbers[..., 0], mask, numbers[..., 1:], tuple(texts))


def test_the_same_token_is_predicted_from_one_place_earlier_in_both_models():
    # "abc饕": the student begins with <bos>, the teacher does not and ends with <eos>
    student = batch(
        [[(1, 0, 0), (5, 0, 2), (6, 2, 3), (8, 3, 4), (9, 3, 4)]], ["abc饕"]
    )
    teacher = batch(
        [[(5, 0, 2), (6, 2, 3), (8, 3, 4), (9, 3, 4), (2, 4, 4)]], ["abc饕"]
    )
    # The teacher predicts no first token; after 饕 the student predicts nothing.
    expected = torch.tensor([[-1, 0, 1, 2, -1]])
    assert torch.equal(same_predictions(student, teacher), expected)


def test_a_token_of_another_id_or_another_stretch_is_another_token():
    student = batch([[(1, 0, 0), (5, 0, 2), (6, 2, 3), (7, 3, 5)]], ["abcde"])
    teacher = batch([[(1, 0, 0), (5, 0, 2), (9, 2, 3), (7, 3, 4)]], ["abcde"])
    assert same_predictions(student, teacher).tolist() == [[0, -1, -1, -1]]


def test_texts_are_not_mixed_up_and_padding_predicts_nothing():
    rows = [[(1, 0, 0), (5, 0, 1)], [(1, 0, 0), (5, 0, 1), (6, 1, 2)]]
    own = batch(rows, ["a", "ab"])
    found = same_predictions(own, batch(rows[::-1], ["ab", "a"]))
    assert found.tolist() == [[0, -1, -1], [3, -1, -1]]
    assert same_predictions(own, own).tolist() == [[0, -1, -1], [3, 4, -1]]


def test_of_a_conversation_only_what_is_learned_is_compared():
    chat = Conversation([{"role": "user", "content": "ab"}])
    rows = [[(1, 0, 0), (2, 0, 0), (5, 0, 1), (6, 1, 2), (3, 2, 2), (4, 2, 2)]]
    own = replace(batch(rows, ["ab"]), texts=(chat,))
    assert same_predictions(own, own).tolist() == [[-1, 1, 2, 3, -1, -1]]
