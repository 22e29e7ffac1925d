"""One function says where the cache lies."""

from pathlib import Path

import pytest

from align.support.cache_folder import cache_folder
from teacher.zoo import list_zoo

HOME = Path.home()


@pytest.mark.parametrize(
    ("environ", "platform", "folder"),
    [
        ({"MTKD_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "linux", Path("/a")),
        ({"MTKD_CACHE": "~/a"}, "linux", HOME / "a"),
        ({"MTKD_CACHE": "", "XDG_CACHE_HOME": "/b"}, "linux", Path("/b/mtkd")),
        ({"XDG_CACHE_HOME": "/b"}, "darwin", Path("/b/mtkd")),
        ({"XDG_CACHE_HOME": "relative"}, "linux", HOME / ".cache/mtkd"),
        ({}, "linux", HOME / ".cache/mtkd"),
        ({}, "darwin", HOME / "Library/Caches/mtkd"),
        ({"LOCALAPPDATA": "/l"}, "win32", Path("/l/mtkd/Cache")),
    ],
)
def test_the_projects_variable_then_xdg_then_the_platforms_place(
    environ, platform, folder
):
    assert cache_folder(environ, platform) == folder


def test_the_zoo_lies_in_it(monkeypatch, tmp_path):
    monkeypatch.delenv("MTKD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (entry, *_) = list_zoo(scale="tiny")
    assert entry.path.parent == tmp_path / "mtkd" / "zoo" / "tiny"
