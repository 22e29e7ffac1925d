import gc

import pytest

from align.support.garbage import garbage_sought_among_the_new


@pytest.fixture
def thawed():
    """Nothing is frozen, and of what this suite froze all is frozen again after."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if frozen:
        gc.freeze()


def test_what_there_was_is_left_out_until_the_block_ends(thawed):
    before = [[]]
    with garbage_sought_among_the_new():
        after = [[]]
        sought = {id(item) for item in gc.get_objects()}
        assert id(before) not in sought and id(after) in sought
    assert gc.get_freeze_count() == 0


def test_it_thaws_nothing_that_another_froze(thawed):
    gc.freeze()
    frozen = gc.get_freeze_count()
    with garbage_sought_among_the_new():
        assert gc.get_freeze_count() <= frozen
    assert gc.get_freeze_count() > frozen / 2
