import os
import threading

import pytest

from align.support.whole_file import whole_file, write_whole


def test_a_file_takes_its_place_as_a_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, "one")
    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["folder", "a" * 255, "file/a.png", ""])
def test_what_cannot_be_written_is_called_as_it_was_asked_for(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as refused:
        write_whole(tmp_path / name, "text")
    assert refused.value.filename in (str(tmp_path / name), str(tmp_path / "file"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write_whole(path, "text")
    reader.join(10)
    assert read == ["text"] and path.is_fifo()
