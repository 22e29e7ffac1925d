"""Texts are read to their ends before anything is loaded, where they are modest."""

import json

import pytest

from align.errors import InputError
from experiments.assemble.read_through import read_through
from experiments.texts.config import DataConfig


@pytest.fixture
def texts(tmp_path):
    """Write documents as JSON lines; gives the path."""

    def write(name, *documents):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
        return str(path)

    return write


def test_it_says_how_much_was_read(texts):
    config = DataConfig(train=[texts("a", "one", "two"), texts("b", "three")])
    assert read_through(config) == ["texts: 3 documents, all rows of 2 files read"]


def test_what_is_not_modest_is_left_unread_and_named(texts):
    small, large = texts("a", "one"), texts("large", "two" * 99, 5)
    first, second = read_through(DataConfig(train=[small, large]), most=100)
    assert first == "texts: 1 document, all rows of 1 file read"
    assert second.startswith("texts: the first rows alone were read of large.jsonl")


def test_a_bad_row_is_found_wherever_it_stands(texts):
    path = texts("a", *["fine"] * 40, 5)
    with pytest.raises(
        InputError, match=r"data\.train: .*line 41: field 'text' is the number 5"
    ):
        read_through(DataConfig(train=[path]))
    *_, warning = read_through(DataConfig(train=[path], on_bad_row="skip"))
    assert warning.startswith("warning: 1 row holds no text and were left out")


def test_text_that_is_all_held_out_leaves_nothing_to_learn_from(texts, tmp_path):
    path, copy = texts("a", "one", "two"), texts("copy", "two", "one", "more")
    again = f"{tmp_path}/../{tmp_path.name}/a.jsonl"
    for held, unit in (
        (path, "1 of 1 files"),
        (again, "1 of 1 files"),
        (copy, "2 of 2 doc"),
    ):
        with pytest.raises(InputError, match=f"{unit}.*leaves nothing to learn from"):
            read_through(DataConfig(train=[path], eval=[held]))
    kept = DataConfig(train=[path], eval=[path], overlap="keep")
    assert "are learned all the same" in read_through(kept)[-1]


def test_text_that_is_held_out_in_part_is_told_or_refused_as_asked(texts):
    train, held = texts("a", "one", "two"), texts("b", "two")
    _, warning = read_through(DataConfig(train=[train], eval=[held]))
    assert "1 of 2 documents of data.train are held out" in warning
    with pytest.raises(InputError, match=r"data\.overlap is refuse"):
        read_through(DataConfig(train=[train], eval=[held], overlap="refuse"))
    beside = DataConfig(train=[train, held], eval=[held])
    assert "1 of 2 files of data.train are held out" in read_through(beside)[-1]
    both = DataConfig(train=[held, "zoo"], eval=[held])
    assert "are left out" in read_through(both)[-1]
