import pytest

from teacher.packages.cached import size_in_words


@pytest.mark.parametrize(
    ("size", "words"),
    [(52_400, "52 kB"), (1_000_000, "1 MB"), (2_340_000_000, "2.3 GB")],
)
def test_a_size_has_the_unit_that_shows_it(size, words):
    assert size_in_words(size) == words
