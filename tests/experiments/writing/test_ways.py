import pytest

from align.errors import InputError
from experiments.writing.ways import Beam, Diverse, Greedy, Sample, way_of


def test_a_way_is_a_name_or_a_name_with_options():
    assert way_of("greedy") == Greedy()
    assert way_of({"use": "sample", "temperature": 0.5}) == Sample(temperature=0.5)
    assert way_of({"use": "beam", "beams": 3}).kept == 3
    assert way_of({"use": "beam", "beams": 3, "texts": 1}).fields() == {
        "do_sample": False,
        "num_beams": 3,
        "num_return_sequences": 1,
        "length_penalty": 1.0,
    }


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("greedi", "did you mean 'greedy'"),
        ({"use": "beam", "beam": 3}, "beam"),
        ({"use": "beam", "beams": 1}, "beams is 1; give 2 or more"),
        ({"use": "beam", "beams": 2, "texts": 3}, "texts is 3; give 1 to 2"),
        ({"use": "sample", "temperature": 0}, "use greedy"),
        ({"use": "sample", "top_p": 1.5}, r"top_p is 1.5; give a share in \(0, 1\]"),
        ({"use": "sample", "texts": "two"}, "texts"),
        ({"use": "diverse", "texts": 5, "candidates": 4}, "candidates is 4"),
        ({"temperature": 1}, "registered name"),
    ],
)
def test_what_cannot_be_written_so_is_refused_by_name(chosen, words):
    with pytest.raises(InputError, match=words):
        way_of(chosen)


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
