import sys
import threading

import pytest

from align.bounds.steps import TooManyStepsError, within_steps


def endless():
    number = 0
    while True:
        number += 1


def test_what_does_not_end_is_stopped_in_any_thread():
    stopped = []

    def run():
        try:
            within_steps(endless, "it", most=1000)
        except TooManyStepsError as error:
            stopped.append(str(error))

    run()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert stopped == ["it does not end within 1,000 steps; give one that does"] * 2


def test_what_ends_is_left_alone_and_so_is_who_traced_before():
    before = sys.gettrace()
    assert within_steps(lambda: sum(range(10)), "it", most=1000) == 45
    with pytest.raises(ZeroDivisionError):
        within_steps(lambda: 1 / 0, "it")
    assert sys.gettrace() is before
