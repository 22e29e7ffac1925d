"""What a test logs is caught, and its handlers are taken off again."""

import logging

from _pytest import logging as of_pytest


def test_a_test_catches_what_reaches_the_root(caplog):
    logging.getLogger("tests.somewhere").warning("said")
    assert [record.getMessage() for record in caplog.records] == ["said"]
    assert caplog.text.endswith("said\n")


def test_handlers_are_at_the_root_while_they_catch_and_no_longer():
    silent, root = logging.getLogger("tests.silent"), logging.getLogger()
    silent.propagate = False
    handler, level = logging.NullHandler(), root.level
    with of_pytest.catching_logs(handler, level=logging.DEBUG):
        assert handler in root.handlers
        assert not silent.handlers
        assert root.level == handler.level == logging.DEBUG
    assert handler not in root.handlers
    assert root.level == level
