"""Passes of texts alike in length: the same step with less padding."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student.config import LossConfig
from student.loop.data_order import deal
from student.loop.trainer import train_phase
from tests.student.loop.test_batches import maker
from tests.student.loop.test_trainer import CONFIG, job_for, weights_of


def cheapest(lengths, runs, limit):
    """Padded tokens of the best of all ways to cut the sorted lengths."""
    ordered = sorted(lengths, reverse=True)

    def best(begin, runs):
        if runs == 1:
            cost = (len(ordered) - begin) * ordered[begin]
            return cost if cost <= limit else float("inf")
        ends = range(begin + 1, len(ordered) - runs + 2)
        costs = ((end - begin) * ordered[begin] for end in ends)
        return min(
            (cost + best(end, runs - 1))
            for end, cost in zip(ends, costs, strict=True)
            if cost <= limit
        )

    return best(0, runs)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.data(),
)
def test_every_text_is_dealt_once_and_no_other_way_pads_less(passes, ranks, most, data):
    count = passes * ranks * most
    lengths = data.draw(
        st.lists(st.integers(1, 30), min_size=count, max_size=count), "lengths"
    )
    runs = deal(lengths, passes, ranks, most)
    assert len(runs) == passes * ranks and all(runs)
    assert sorted(place for run in runs for place in run) == list(range(count))
    costs = [len(run) * max(lengths[place] for place in run) for run in runs]
    assert max(costs) <= most * max(lengths)
    assert sum(costs) == cheapest(lengths, passes * ranks, most * max(lengths))


def test_steps_of_many_texts_are_dealt_by_stretches():
    lengths = [7 * n % 128 + 1 for n in range(2048)]
    runs = deal(lengths, 16, 8, 16)
    assert sorted(place for run in runs for place in run) == list(range(2048))
    padded = sum(len(run) * max(lengths[n] for n in run) for run in runs)
    assert padded < 1.02 * sum(lengths)


@pytest.mark.parametrize("kinds", [1, 5])
def test_no_pass_of_many_texts_is_empty_or_larger_than_it_may_be(kinds):
    # Three texts a pass at most, in stretches of two: such cuts cannot hold all.
    lengths = [30 + n % kinds for n in range(1200)]
    runs = deal(lengths, 100, 4, 3)
    assert sorted(place for run in runs for place in run) == list(range(1200))
    costs = [len(run) * max(lengths[place] for place in run) for run in runs if run]
    assert len(costs) == 400 and max(costs) <= 3 * max(lengths)


def step_of(passes, **changes):
    made = maker(batch_size=2, dealt=passes, rows=4, **changes)
    return [made.order(number) for number in range(passes, 2 * passes)]


def test_a_step_reads_the_same_texts_at_the_same_places_on_any_number_of_processes():
    def read(*orders):
        return Counter(
            (sample.id, tuple(row.tolist()))
            for order in orders
            for sample, row in zip(order.samples, order.rows, strict=True)
        )

    as_they_come = read(maker(batch_size=8, rows=4).order(1))
    dealt = step_of(4)
    assert read(*dealt) == as_they_come
    ranks = [step_of(2, rank=rank, world_size=2) for rank in (0, 1)]
    assert read(*ranks[0], *ranks[1]) == as_they_come
    longest = [int(order.batch.mask.sum(1).max()) for order in dealt]
    assert all(a >= b for a, b in pairwise(longest))
    assert read(*step_of(4)) == read(*dealt)  # also when asked for in the middle
    assert read(step_of(4)[2]) == read(dealt[2])


@pytest.mark.slow
@pytest.mark.parametrize("dropped", ["ce", "kv"])
def test_a_dealt_step_moves_the_student_as_an_undealt_one(
    school, start_engine, dropped
):
    config = replace(CONFIG, steps=2, grad_accum=3)
    terms = {"lambda_k": 0.0, "lambda_v": 0.0} if dropped == "kv" else {}

    def trained(batch_by):
        lesson = school.lesson("projector", loss=LossConfig(**terms))
        chosen = replace(config, batch_by=batch_by)
        job = job_for(school, lesson, steps=2)
        train_phase(lesson.distiller, start_engine(chosen), job, chosen)
        return weights_of(lesson)

    torch.manual_seed(0)
    plain, dealt = trained("samples"), trained("tokens")
    for name, weight in plain.items():
        torch.testing.assert_close(dealt[name], weight, atol=1e-5, rtol=1e-4)
