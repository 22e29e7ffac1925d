"""Draws from groups: in proportion, in turn, by their place alone."""

import math

import numpy as np
import torch

from student.curriculum.groups import GroupDraws, apportioned, ranked


def draws(groups, shares, texts=80, size=4, **changes):
    groups = [np.array(group, dtype=np.int64) for group in groups]
    return GroupDraws(groups, shares, seed=1, size=size, texts=texts, **changes)


def test_whole_texts_go_to_the_largest_remainders():
    def given(*owed):
        return apportioned(np.array(owed), 4).tolist()

    assert given(2.5, 1.0, 0.5) == [3, 1, 0]
    assert given(1.0, 1.6, 1.4) == [1, 2, 1]
    assert given(-3.0, 2.0, 2.0) == [0, 2, 2]
    assert given(0.0, 0.0) == [2, 2]


def test_ranks_stand_in_the_middle_of_their_share():
    values = torch.tensor([3.0, math.nan, 1.0, 2.0, 9.0])
    assert ranked(values).tolist() == [0.625, 0.5, 0.125, 0.375, 0.875]
    by_domain = ranked(values, ["a", "a", "a", "b", "b"]).tolist()
    assert by_domain == [0.75, 0.5, 0.25, 0.25, 0.75]


def test_every_text_of_a_group_has_its_turn_before_one_comes_again():
    drawn = draws([range(4), range(4, 10)], lambda progress: np.array([1.0, 1.0]))
    read = [drawn.at(first) for first in range(0, 80, 4)]
    assert all(sum(text < 4 for text in step) == 2 for step in read)
    of_first = [text for step in read for text in step if text < 4]
    turns = [of_first[at : at + 4] for at in range(0, 40, 4)]
    assert all(sorted(turn) == [0, 1, 2, 3] for turn in turns)
    assert len(set(map(tuple, turns))) > 1


def test_counts_are_the_sums_of_moving_shares():
    def shares(progress):
        return np.array([1 - progress, progress, 0.25])

    drawn = draws([range(20), range(20, 40), [40]], shares)
    read = np.zeros(3)
    owed = np.zeros(3)
    for first in range(0, 80, 4):
        owed += 4 * shares(first / 80) / 1.25
        for text in drawn.at(first):
            read[min(text // 20, 2)] += 1
        assert np.abs(read - owed).max() < 1


def test_a_step_follows_from_its_place_alone():
    def shares(progress):
        return np.array([1 - progress, progress])

    groups = [range(7), range(7, 12)]
    inorder = draws(groups, shares)
    every = [inorder.at(first) for first in range(0, 80, 4)]
    assert draws(groups, shares).at(76) == every[-1]  # as a run that goes on
    assert inorder.at(0) == every[0]
    later = draws(groups, shares, since=40)
    assert later.at(40) != every[10] and len(later.at(76)) == 4
    # before the shares move, an empty group and one that gets nothing change nothing
    empty = draws([range(7), []], lambda progress: np.array([0.0, 5.0]))
    assert all(text < 7 for first in range(0, 80, 4) for text in empty.at(first))
