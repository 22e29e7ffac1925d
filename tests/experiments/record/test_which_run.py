from pathlib import Path

import pytest

from align.errors import InputError
from experiments.record.run_dir import read_run
from experiments.record.which_run import is_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs in ``runs``, where the command runs."""
    for name in ("quickstart", "mine"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_a_runs_folder_is_told_from_a_models_name(runs):
    (runs / "model").mkdir()
    (runs / "model" / "config.json").touch()
    assert is_run("runs/quickstart") and is_run(str(runs / "mine"))
    assert not is_run("runs/model")
    assert not is_run("openai-community/gpt2") and not is_run("gpt2")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("runs/quickstrat", "run folder runs/quickstrat .*did you mean runs/quickst"),
        ("runs/zzz", r"does not exist; there are runs/mine, runs/quickstart"),
        ("quickstart", "did you mean runs/quickstart"),
        ("runs", r"neither a run nor .*holds runs, give one: runs/mine, runs/quicks"),
    ],
)
def test_a_run_that_is_not_there_names_the_nearest(runs, name, hint):
    with pytest.raises(InputError, match=hint):
        is_run(name)


def test_before_any_run_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no runs in runs; `mtkd quickstart --tiny`"):
        is_run("runs/quickstart")


def test_a_report_of_a_folder_of_runs_names_them(runs):
    with pytest.raises(InputError, match=r"give one: runs/mine, runs/quickstart$"):
        read_run(Path("runs"))
    for number in range(8):
        (runs / f"r{number}").mkdir()
        (runs / f"r{number}" / "config.yaml").touch()
    with pytest.raises(InputError, match=r"runs/mine, .*runs/r5 and 2 more$"):
        read_run(Path("runs"))


def test_a_report_of_a_bare_name_names_the_nearest_run(runs):
    with pytest.raises(InputError, match="did you mean runs/quickstart"):
        read_run(Path("quickstrat"))
