"""A teacher's name is parted into its source and the rest."""

import pytest

from align.errors import InputError
from teacher.sources.built_in import SOURCES, parted
from teacher.sources.files import Files


class Bare(Files):
    bare = True


KNOWN = {**SOURCES, "ghost": Bare, "soup": Files}


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("zoo:tiny/gpt2-prose", ("zoo", "tiny/gpt2-prose")),
        ("pkg:smollm2", ("pkg", "smollm2")),
        ("soup:a,b:c", ("soup", "a,b:c")),
        ("ghost", ("ghost", "")),
        ("ghost:7", ("ghost", "7")),
        # no colon, and no source that stands alone: a folder, or the hub's
        ("gpt2", ("files", "gpt2")),
        ("soup", ("files", "soup")),
        ("zoo", ("files", "zoo")),
        ("openai-community/gpt2", ("files", "openai-community/gpt2")),
        ("./zoo:x", ("files", "./zoo:x")),
        ("/models/a:b", ("files", "/models/a:b")),
        # the source of plain names is no prefix of its own
        ("files", ("files", "files")),
    ],
)
def test_a_prefix_is_what_stands_before_the_first_colon(model, source):
    assert parted(model, KNOWN) == source


def test_a_prefix_that_nobody_offers_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"from 'soop' \(did you mean soup:\?\).*pkg"):
        parted("soop:a", KNOWN)


def test_a_folder_that_is_there_may_have_a_colon(tmp_path, monkeypatch):
    (tmp_path / "my:model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parted("my:model", KNOWN) == ("files", "my:model")


def test_sources_of_files_read_what_they_are_called():
    made = {prefix: factory(factory.example) for prefix, factory in SOURCES.items()}
    files = {prefix: source.files for prefix, source in made.items() if source.files}
    assert files.pop("peer") == made["peer"].like == "zoo:student"
    assert files == {"files": "folder", "zoo": "zoo:folder", "pkg": "pkg:folder"}
    for prefix in files:
        assert made[prefix].like == files[prefix] and not made[prefix].moves
