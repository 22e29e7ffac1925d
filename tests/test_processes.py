"""Sharing tests among processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFTEST = """
import os, pytest
from tests.processes import Processes, add_option

def pytest_addoption(parser):
    add_option(parser)

def pytest_configure(config):
    if config.option.processes > 1:
        config.pluginmanager.register(Processes(config.option.processes))

@pytest.fixture(scope="session")
def of_session():
    yield os.getpid()
    open(f"ended-{os.getpid()}", "w").close()
"""
FIRST = """
import os, time
from pathlib import Path

def test_passes(of_session, capfd):
    Path(f"ran-first-{os.getpid()}").touch()
    while not list(Path().glob("ran-second-*")):
        time.sleep(0.01)
    os.write(1, b"to be captured")
    assert capfd.readouterr().out == "to be captured"
"""
SECOND = """
import os, time, warnings, pytest
from pathlib import Path

def test_fails(of_session):
    Path(f"ran-second-{os.getpid()}").touch()
    while not list(Path().glob("ran-first-*")):
        time.sleep(0.01)
    print("what was printed")
    assert 6 * 7 == 43, "so it is not"

def test_warns():
    warnings.warn("mind the gap", DeprecationWarning)

@pytest.mark.skip(reason="not here")
def test_is_skipped():
    pass
"""


@pytest.fixture
def session(tmp_path):
    """Starts pytest on files of tests, by their names."""

    def started(*arguments: str, **files: str) -> subprocess.Popen:
        (tmp_path / "conftest.py").write_text(CONFTEST)
        for name, source in files.items():
            (tmp_path / f"test_{name}.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-q", "-ra", "--processes=2"]
        return subprocess.Popen(
            [*command, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # whoever runs tests in the background of a shell ignores it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return started


def ended(process: subprocess.Popen) -> tuple[int, str]:
    out, _ = process.communicate(timeout=60)
    return process.returncode, out


def test_two_processes_run_the_files_and_one_session_tells_of_them(session, tmp_path):
    code, out = ended(session(first=FIRST, second=SECOND))
    assert code == 1
    assert "1 failed, 2 passed, 1 skipped, 1 warning" in out
    assert "so it is not" in out and "what was printed" in out
    assert "DeprecationWarning: mind the gap" in out and "to be captured" not in out
    ran = {path.name.rpartition("-")[2] for path in tmp_path.glob("ran-*")}
    closed = {path.name.rpartition("-")[2] for path in tmp_path.glob("ended-*")}
    assert len(ran) == 2 and closed == ran  # each with a fixture of its own, once
    failed_first = ended(session("--lf", "--collect-only"))[1]
    assert "test_second.py::test_fails" in failed_first
    assert "test_warns" not in failed_first


def test_a_test_in_which_a_process_dies_fails_and_those_after_it_are_missed(session):
    dies = "import os\ndef test_dies():\n    os._exit(3)\n\ndef test_after(): pass\n"
    code, out = ended(session(dies=dies, fine="def test_fine(): pass\n"))
    assert code == 1
    assert "FAILED test_dies.py::test_dies" in out and "ended with 3 in it" in out
    assert "1 tests not run: a process ended early" in out


def test_the_first_failure_is_the_last_where_that_is_asked(session):
    slow = "import time\n" + "".join(
        f"def test_{n}(of_session): time.sleep(0.2)\n" for n in range(100)
    )
    began = time.monotonic()
    code, out = ended(session("-x", slow=slow, fails="def test_no(): assert False\n"))
    assert code == 1 and "stopping after 1 failures" in out
    assert "1 failed" in out and time.monotonic() - began < 19


def test_an_interrupt_ends_all_processes_and_their_fixtures(session, tmp_path):
    sleeps = (
        "import os, time\nfrom pathlib import Path\n"
        "def test_sleeps(of_session):\n"
        "    Path(f'ran-{os.getpid()}').touch()\n    time.sleep(60)\n"
    )
    process = session(one=sleeps, two=sleeps)
    while len(started := list(tmp_path.glob("ran-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out = ended(process)
    assert code == 2 and "KeyboardInterrupt" in out
    for path in started:
        assert (tmp_path / path.name.replace("ran", "ended")).exists()


def test_a_mistake_outside_of_tests_is_told(session, tmp_path):
    hook = "\nimport os\nparent = os.getpid()\ndef pytest_runtest_logfinish():\n"
    hook += "    assert os.getpid() == parent, 'a mistake of a plugin'\n"
    (tmp_path / "plugin_of_ours.py").write_text(hook)
    code, out = ended(session("-p", "plugin_of_ours", fine="def test_fine(): pass\n"))
    assert code == 3 and "a mistake of a plugin" in out
