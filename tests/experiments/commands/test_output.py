import io
import os
import subprocess
import sys

import pytest

from experiments.cli import main
from experiments.commands.output import UNREAD, lasting_output
from experiments.record.progress import Progress


@pytest.fixture
def unread():
    """A text stream into a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield stream


def test_work_goes_on_when_the_reader_of_stdout_leaves(unread, monkeypatch):
    errors = io.StringIO()
    monkeypatch.setattr("sys.stdout", unread)
    monkeypatch.setattr("sys.stderr", errors)
    with lasting_output("the run"):
        for step in range(3):
            print(step, flush=True)
    told = "mtkd: nobody reads the standard output any more; the run goes on\n"
    assert errors.getvalue() == told  # once
    assert sys.stdout is unread


def test_progress_goes_on_when_the_reader_of_stderr_leaves(unread, monkeypatch):
    monkeypatch.setattr("sys.stderr", unread)
    with lasting_output("the run"), Progress().work("dual", 2) as show:
        show(2)
        show(2)
    unread.write("whoever else writes there")
    unread.flush()  # is not hindered either


@pytest.mark.parametrize(
    "words", [["config", "show"], ["recipes", "show", "one_card"], ["recipes", "list"]]
)
def test_what_only_shows_ends_with_a_code_when_its_reader_leaves(
    words, unread, monkeypatch
):
    monkeypatch.setattr("sys.stdout", unread)
    assert main(words) == UNREAD == 128 + 13  # as a shell gives SIGPIPE


def test_an_error_keeps_its_code_when_nobody_listens(unread, monkeypatch):
    monkeypatch.setattr("sys.stderr", unread)
    assert main(["train", "no-such-config"]) == 2


def test_streams_that_were_closed_before_are_no_error():
    code = "import sys; from experiments.cli import main; sys.exit(main(['recipes']))"
    words = [sys.executable, "-c", code]
    shell = subprocess.run(
        ["sh", "-c", '"$@" >&- 2>&-', "sh", *words], timeout=60, check=False
    )
    assert shell.returncode == 0
