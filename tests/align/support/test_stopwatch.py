import torch

from align.support import stopwatch
from align.support.stopwatch import Stopwatch, part, whole


def test_seconds_count_for_the_innermost_name_alone(monkeypatch):
    ticks = iter([10.0, 12.0, 17.0, 18.0])  # outer, inner, end of inner, end of outer
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch(torch.device("cpu"))
    with watch.listening(), part("outer"), part("inner"):
        pass
    assert watch.take() == {"outer": 3.0, "inner": 5.0}
    assert watch.take() == {}


def test_the_gpu_that_is_waited_for_is_the_one_that_was_named(monkeypatch):
    """A thread's current GPU is the first one, whichever its process works on."""
    waited = []
    monkeypatch.setattr(stopwatch.torch.cuda, "synchronize", waited.append)
    watch = Stopwatch(torch.device("cuda", 3))
    with watch.listening(), part("student"):
        pass
    assert waited == [torch.device("cuda", 3)] * 2


def test_a_whole_stretch_keeps_what_is_named_inside_it(monkeypatch):
    ticks = iter([10.0, 18.0, 20.0, 21.0])  # of the stretch, and of one after it
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    with watch.listening():
        with whole("peers"), part("student"):
            pass
        with part("student"):
            pass
    assert watch.take() == {"peers": 8.0, "student": 1.0}


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
