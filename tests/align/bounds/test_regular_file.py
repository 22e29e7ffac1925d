import os
import socket
from pathlib import Path

import pytest

from align.bounds.regular_file import bytes_of, opened, refuse_special_files


@pytest.fixture
def odd(tmp_path, monkeypatch) -> Path:
    """A folder with one of each kind that is no file."""
    monkeypatch.chdir(tmp_path)  # a socket's path has a hundred characters
    os.mkfifo("pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    Path("zero").symlink_to("/dev/zero")
    Path("nowhere").symlink_to("gone")
    Path("kernel").symlink_to("/proc/self/environ")
    Path("folder").mkdir()
    Path("file").write_bytes(b"12345")
    yield Path()
    listening.close()


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("pipe", "pipe is a pipe and not a file; write what it gives into a file"),
        ("socket", "socket is a socket and not a file"),
        ("zero", "zero is a device and not a file"),
        ("kernel", "kernel is a file of the system's"),
        ("folder", "folder is a folder; give a file"),
        ("nowhere", "nowhere is a link that leads nowhere"),
        ("gone", "gone is not there"),
        ("a\x00b", "'a\\x00b' cannot be read"),
        ("n" * 999, "cannot be read (File name too long)"),
    ],
    ids=range(9),
)
def test_what_is_no_file_is_refused_without_waiting(odd, name, refusal):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        opened(odd / name)
    assert refusal in str(refused.value)


def test_a_relative_path_that_is_not_there_is_told_where_it_begins(odd, monkeypatch):
    monkeypatch.chdir(odd)
    with pytest.raises(FileNotFoundError, match=r"^gone is not there; a relative path"):
        opened(Path("gone"))


def test_a_file_is_opened_and_read_up_to_a_bound(odd):
    with opened(odd / "file") as file:
        assert file.read() == b"12345"
    assert bytes_of(odd / "file", 5, "a note") == b"12345"
    with pytest.raises(ValueError, match="file has 5 bytes, and a note may have 4"):
        bytes_of(odd / "file", 4, "a note")


def test_a_folder_is_looked_through(odd, tmp_path):
    with pytest.raises(ValueError, match="kernel is a file of the system's"):
        refuse_special_files(odd)
    refuse_special_files(tmp_path / "folder")
    refuse_special_files(tmp_path / "gone")
