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


def test_the_nearest_of_the_kept_texts_says_how_far_one_is():
    # Of five pairs each: to the first, "a b c e" has 3 of 7 and "a q y z" 1 of 9 in
    # common; to the last, none and 2 of 8. So 4/7 and 3/4 to the nearest.
    texts = ["a b c d", "a b c e", "a q y z", "w x y z"]
    assert Diverse(texts=3, candidates=4).chosen(texts) == [0, 3, 2]


def test_what_is_set_of_transformers_is_what_was_asked_and_no_default_of_its_own():
    drawn = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0}
    sample = Sample(temperature=0.7, top_p=0.9, texts=3)
    assert sample.fields() == {**drawn, "num_return_sequences": 3}
    diverse = Diverse(temperature=0.7, top_p=0.9, texts=2, candidates=5)
    assert diverse.fields() == {**drawn, "num_return_sequences": 5}
    beam = Beam(beams=3, texts=2, length_penalty=0.5).fields()
    assert beam.pop("length_penalty") == 0.5 and not beam.pop("do_sample")
    assert beam == {"num_beams": 3, "num_return_sequences": 2}
    assert not (sample.by_likelihood or diverse.by_likelihood) and Beam().by_likelihood
