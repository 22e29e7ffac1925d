import pytest
import torch

from align.tokens.spelling import token_bytes
from student.output.across.vocabulary import (
    Spelling,
    byte_vectors,
    common_pieces,
)


@pytest.fixture(scope="session")
def to_pieces(load):
    student, teacher = load("bytes-chatml"), load("metaspace-legacy")
    return (
        student,
        teacher,
        common_pieces(Spelling.of(student), Spelling.of(teacher), 1_536),
    )


def test_tokens_of_both_are_themselves_and_others_their_first_piece(to_pieces):
    student, teacher, found = to_pieces
    s, t = token_bytes(student), token_bytes(teacher)
    piece = {text: int(found.student[s.index(text)]) for text in (b" H", b" the")}
    for text, n in piece.items():
        assert found.teacher[t.index(text)] == n
    whole = s.index(b" Hello")
    assert b" Hello" not in t and found.student[whole] == piece[b" H"]


def test_every_piece_is_within_reach_of_both_and_special_tokens_of_none(to_pieces):
    student, teacher, found = to_pieces
    assert found.student.shape == (1_536,) and found.teacher.shape == (1_100,)
    for side in (found.student, found.teacher):
        assert torch.equal(side.unique()[1:], torch.arange(found.size))
    assert found.student[student.eos_token_id] == -1 == found.student[-1]
    assert found.teacher[teacher.bos_token_id] == -1
    special = sum(piece is None for piece in token_bytes(student))
    assert (found.student >= 0).sum() == len(token_bytes(student)) - special


def test_a_vocabulary_shares_all_its_pieces_with_itself(load):
    spelling = Spelling.of(load("bytes"))
    found = common_pieces(spelling, spelling)
    assert found.size == 899 and torch.equal(found.student, found.teacher)
    assert len(found.student.unique()) == 900


def test_vectors_follow_the_spelling_and_nothing_else():
    first = byte_vectors([b" believe", b" believes", b"\n\n", None, b" believe"])
    other = byte_vectors([b"x"] * 9000 + [b" believe"])
    assert torch.equal(first[0], other[-1]) and torch.equal(first[0], first[4])
    cosine = torch.nn.functional.cosine_similarity(first[:1], first)
    assert 0.6 < cosine[1] < 0.99 and abs(cosine[2]) < 0.3 and not first[3].any()
    with pytest.raises(ValueError, match="width must be >= 1, got 0"):
        byte_vectors([b"a"], 0)
