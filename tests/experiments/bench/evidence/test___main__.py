"""A page is measured within a budget, once, and what is left is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.bench.evidence import __main__ as bench

SAVES = """
import pathlib, time
try:
    pathlib.Path("begun").touch()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    pathlib.Path("saved").touch()
    raise
"""
"""Needs a second to save when it is stopped."""
PAGE = """# Evidence

## Adds

```bash
python -c "print('first', open('a.yaml').read())"
```

```yaml
# a.yaml
x: 1
```

## Fails

```bash
python -c "raise SystemExit(3)"
python -c "print('after')"
```

## Waits

```bash
pip --version
python -c "print(1)" --texts x=none.txt
```
"""


@pytest.fixture
def measure(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")

    def run(*words: str) -> tuple[int, str, str]:
        given = ["--page", str(page), "--folder", str(tmp_path / "out"), *words]
        monkeypatch.setattr(sys, "argv", ["evidence", *given])
        status = bench.main()
        return status, *capsys.readouterr()

    return run


def test_every_command_is_run_once_in_the_folder_and_a_failed_one_again(
    measure, tmp_path
):
    status, out, err = measure()

    assert status == 1
    assert "ended with 3" in err
    assert "first x: 1" in (tmp_path / "out/logs/adds.txt").read_text().replace(
        "# a.yaml\n", ""
    )
    assert "1 of 1" in out and "1 of 2" in out and "0 of 2" in out
    _, again, _ = measure()
    assert "print('first'" not in again
    assert "SystemExit(3)" in again
    log = (tmp_path / "out/logs/fails.txt").read_text()
    assert log.count("$ python -c \"print('after')\"") == 1


def test_what_a_command_lacks_is_said(measure, tmp_path):
    _, out, _ = measure("--only", "waits")

    assert "give --fetch" in out
    _, fetched, _ = measure("--only", "waits", "--fetch")
    assert "1 of 2" in fetched and "none.txt" in fetched
    (tmp_path / "out" / "none.txt").touch()
    _, whole, _ = measure("--only", "waits", "--fetch")
    assert "2 of 2" in whole


def test_nothing_is_begun_without_budget_nor_where_it_is_only_listed(measure, tmp_path):
    assert measure("--budget", "0")[0] == 0
    assert not (tmp_path / "out" / "logs").exists()
    assert measure("--list")[0] == 0
    assert not (tmp_path / "out" / "logs").exists()


BURNS = """import sys, time
print(sys.argv[2:])
while time.process_time() < 0.3:
    pass
"""


def test_a_command_that_resumes_is_given_the_rest_and_is_done_when_some_is_left(
    measure, tmp_path
):
    """Processor time is taken off: what comes after it is begun another time."""
    page = tmp_path / "page.md"
    burns = "python burns.py experiments.bench.quality"
    page.write_text(
        f"## A\n\n```bash\n{burns}\n```\n\n## B\n\n```bash\n{burns} b\n```\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    (out / "burns.py").write_text(BURNS)
    assert measure("--budget", "0.004")[0] == 0  # a quarter of a second
    assert "['--budget', '0.00']" in (out / "logs" / "a.txt").read_text()
    assert not (out / "logs" / "b.txt").exists()
    assert bench.Bench(out, fetch=False).finished() == {}
    assert measure("--budget", "1")[0] == 0
    assert list(bench.Bench(out, fetch=False).finished()) == [burns, f"{burns} b"]
    assert "['b', '--budget', '0.99']" in (out / "logs" / "b.txt").read_text()


def test_a_command_that_was_stopped_stops_the_page(measure, tmp_path):
    page = tmp_path / "page.md"
    stops = f'python -c "raise SystemExit({bench.STOPPED})"'
    page.write_text(f"## A\n\n```bash\n{stops}\npython -c 1\n```\n")
    status, out, err = measure()
    assert status == bench.STOPPED and "the same command goes on" in err
    assert "python -c 1" not in out


def test_another_program_is_refused_before_any_command_runs(measure, tmp_path):
    (tmp_path / "page.md").write_text("## A\n\n```bash\npython -c 1\nrm x\n```\n")
    status, out, err = measure()
    assert status == 2 and "'rm x' starts 'rm'" in err and "python -c 1" not in out


def test_an_unknown_section_and_a_missing_page_are_said(measure, tmp_path):
    status, _, err = measure("--only", "fourth")
    assert status == 2 and "no section has 'fourth'" in err
    status, _, err = measure("--page", str(tmp_path / "no.md"))
    assert status == 2 and "no.md" in err


def test_whoever_stops_it_waits_for_the_command_to_save(tmp_path):
    page, folder = tmp_path / "page.md", tmp_path / "out"
    page.write_text("# E\n\n## S\n\n```bash\npython saves.py\n```\n")
    folder.mkdir()
    (folder / "saves.py").write_text(SAVES)
    words = ["--page", str(page), "--folder", str(folder)]
    module = "experiments.bench.evidence"
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        start_new_session=True,
        # whoever runs tests in the background of a shell ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (folder / "begun").is_file():
        assert process.poll() is None
        time.sleep(0.02)

    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(60) == bench.STOPPED
    assert (folder / "saved").is_file()
    assert not (folder / bench.DONE).is_file()
