import time

import torch

from align.stopwatch import Stopwatch, part


def test_seconds_count_for_the_innermost_name_alone():
    watch = Stopwatch(torch.device("cpu"))
    with watch.listening(), part("outer"):
        time.sleep(0.02)
        with part("inner"):
            time.sleep(0.05)
    found = watch.take()
    assert 0.02 <= found["outer"] < found["inner"]
    assert found["inner"] >= 0.05
    assert watch.take() == {}


def test_nothing_is_counted_where_nobody_listens():
    watch = Stopwatch()
    with part("before"):
        pass
    with watch.listening():
        pass
    with part("after"):
        pass
    assert watch.take() == {}


def test_a_stretch_that_fails_counts_too():
    watch = Stopwatch()
    try:
        with watch.listening(), part("broken"):
            raise ValueError
    except ValueError:
        pass
    assert list(watch.take()) == ["broken"]
