import os
import signal
import time

import pytest

from align.support.children import wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def forked(action):
    if child := os.fork():
        return child
    try:
        action()
    finally:
        os._exit(9)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (lambda: os._exit(3), 3),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM),
    ],
)
def test_how_it_ended_is_told(action, code):
    assert wait_for(forked(action), 60, 0.001) == code


def test_one_that_takes_too_long_is_killed_and_gone():
    child = forked(lambda: time.sleep(60))
    assert wait_for(child, 0.02, 0.001) is None
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
