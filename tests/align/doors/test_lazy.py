"""A package gives on names without importing the files that define them."""

import sys

import pytest

DOOR = """
from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from house.attic import BED, bed_of as bed
    from house.cellar import WINE
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["BED", "WINE", "bed"]
"""
FILES = {
    "__init__.py": DOOR,
    "attic.py": "BED = ['sheet']\n\ndef bed_of(guest):\n    return BED, guest\n",
    "cellar.py": "WINE = 'red'\n",
}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package of two files, imported by nobody yet."""
    (tmp_path / "house").mkdir()
    for name, source in FILES.items():
        (tmp_path / "house" / name).write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("house")
    for name in [n for n in sys.modules if n.partition(".")[0] == "house"]:
        del sys.modules[name]


def test_a_file_is_imported_when_its_first_name_is_asked_for(house):
    assert not {"house.attic", "house.cellar"} & set(sys.modules)
    bed = house.BED
    assert "house.attic" in sys.modules and "house.cellar" not in sys.modules
    assert bed is sys.modules["house.attic"].BED
    assert house.bed("guest") == (bed, "guest")  # by its name here
    assert vars(house)["BED"] is bed  # the next look is as quick as any other


def test_all_names_are_listed_and_can_be_taken_at_once(house):
    assert {"BED", "WINE", "bed"} <= set(dir(house))
    names = {}
    exec("from house import *", names)
    assert names["WINE"] == "red"


def test_a_name_that_is_not_there_is_missed_as_in_any_module(house):
    with pytest.raises(AttributeError, match=r"module 'house' has no attribute 'ROOF'"):
        _ = house.ROOF
    with pytest.raises(ImportError, match="cannot import name 'ROOF' from 'house'"):
        exec("from house import ROOF")
    assert not hasattr(house, "__wrapped__")
    assert not {"house.attic", "house.cellar"} & set(sys.modules)
