import random

import pytest

from experiments.bench.faults.harms import (
    CUT,
    EMPTY,
    FLIP,
    FOLDER,
    LINK,
    LOSE,
    SWAP,
    Harm,
    do_harm,
    draw_harm,
    restore,
)


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "a").write_bytes(b"abc")
    (folder / "b").write_bytes(b"xyz!")
    (folder / "c").write_bytes(b"")
    return folder


def test_a_flip_changes_one_bit_and_no_size(place):
    do_harm(Harm(kind=FLIP, at=9), place / "a", place)
    assert (place / "a").read_bytes() == b"a`c"  # b is 0x62, the second bit 0x02


@pytest.mark.parametrize(("kind", "left"), [(CUT, b"ab"), (EMPTY, b"")])
def test_a_cut_leaves_the_beginning(place, kind, left):
    do_harm(Harm(kind=kind, at=2 if kind == CUT else 0), place / "a", place)
    assert (place / "a").read_bytes() == left


def test_a_swap_exchanges_contents(place):
    do_harm(Harm(kind=SWAP, other="b"), place / "a", place)
    assert (place / "a").read_bytes() == b"xyz!"
    assert (place / "b").read_bytes() == b"abc"


def test_a_file_is_lost_or_something_else_takes_its_place(place):
    do_harm(Harm(kind=LOSE), place / "a", place)
    assert not (place / "a").exists()
    do_harm(Harm(kind=LINK, other="c"), place / "b", place)
    assert (place / "b").is_symlink() and (place / "b").read_bytes() == b""
    do_harm(Harm(kind=FOLDER), place / "c", place)
    assert (place / "c").is_dir()


def test_what_is_drawn_depends_on_the_seed_alone_and_lies_in_the_file(place):
    files = [place / name for name in "abc"]

    def drawn(kind, file, seed):
        return draw_harm(kind, file, files, place, random.Random(seed))

    bits = {drawn(FLIP, place / "a", seed).at for seed in range(200)}
    assert bits == set(range(24))
    assert drawn(CUT, place / "b", 3) == drawn(CUT, place / "b", 3)
    assert drawn(SWAP, place / "a", 0).other in ("b", "c")


def test_harms_that_cannot_be_are_others(place):
    def drawn(kind, name, *like):
        files = [place / other for other in like]
        return draw_harm(kind, place / name, files, place, random.Random(0)).kind

    assert drawn(FLIP, "c") == drawn(CUT, "c") == LOSE
    assert drawn(SWAP, "a", "a") == LOSE  # nothing there that differs
    assert drawn(LINK, "a", "a") == LINK  # one that leads nowhere


def test_everything_is_put_back(place, tmp_path):
    restore(place, tmp_path / "whole")
    for kind in (LOSE, LINK, FOLDER):
        do_harm(Harm(kind=kind), place / "a", place)
        restore(tmp_path / "whole", place)
        assert (place / "a").read_bytes() == b"abc"
        assert not (place / "a").is_symlink()
