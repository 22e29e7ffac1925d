from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from student.loop.data_order import sample_indices


def test_an_epoch_reads_every_sample_once():
    read = sample_indices(10, seed=0, first=0, size=10)
    assert sorted(read) == list(range(10))
    second = sample_indices(10, seed=0, first=10, size=10)
    assert sorted(second) == list(range(10)) and second != read


def test_seeds_differ_and_repeat():
    assert sample_indices(50, 1, 0, 50) == sample_indices(50, 1, 0, 50)
    assert sample_indices(50, 1, 0, 50) != sample_indices(50, 2, 0, 50)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 17),
    seed=st.integers(0, 5),
    first=st.integers(0, 40),
    size=st.integers(1, 6),
    world=st.integers(1, 4),
)
def test_every_number_of_processes_reads_the_same_samples_in_the_same_order(
    count, seed, first, size, world
):
    alone = sample_indices(count, seed, first, size * world)
    shared = [
        index
        for rank in range(world)
        for index in sample_indices(count, seed, first, size, rank)
    ]
    assert shared == alone


def test_a_pass_over_the_end_of_an_epoch_goes_on_with_the_next():
    read = sample_indices(4, 0, 0, 12)
    assert Counter(read) == {0: 3, 1: 3, 2: 3, 3: 3}
    assert sample_indices(4, 0, 2, 4) == read[2:6]
