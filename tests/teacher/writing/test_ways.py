"""How tokens are chosen, and which texts are kept."""

from teacher.writing import Beam, Diverse, Greedy, Sample


def test_equal_texts_are_one():
    assert Sample(texts=4).chosen(["a", "b", "a", "c"]) == [0, 1, 3]
    assert Beam(beams=4, texts=2).chosen(["a", "a", "b", "c"]) == [0, 2]
    assert Greedy().chosen(["a"]) == [0]


def test_diverse_texts_are_the_farthest_from_each_other_by_hand():
    # Pairs of words, with the borders: of "a b" are (^a)(ab)(b$). Jaccard distances to
    # it: 0.8 of "a c" (1 of 5 shared), 1 of "x y"; of "a c" to "x y" 1.
    way = Diverse(texts=2, candidates=4)
    assert way.chosen(["a b", "a b", "a c", "x y"]) == [0, 3]
    assert Diverse(texts=4, candidates=4).chosen(["a b", "a b", "a c", "x y"]) == [
        0,
        3,
        2,
    ]
