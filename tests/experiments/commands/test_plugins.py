"""``mtkd plugins list`` where nobody else's plugin is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.commands.plugins import built_in_rows
from experiments.config.presets import load_registry

ROOT = Path(__file__).parents[3]
LIST = ["plugins", "list", "--json", "--no-plugins"]


@pytest.fixture(autouse=True)
def none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTKD_NO_PLUGINS", "1")


def test_the_written_names_are_those_that_the_registry_has():
    assert built_in_rows() == load_registry().describe(), "run: make docs"


def test_one_kind_is_listed_by_its_name_of_today(capsys):
    for kind in ("schedule", "temperature"):
        assert main([*LIST, "--kind", kind]) == 0
        rows = json.loads(capsys.readouterr().out)["plugins"]
        assert rows and {row["kind"] for row in rows} == {"schedule"}


def test_what_is_no_kind_is_refused(capsys):
    assert main([*LIST, "--kind", "none"]) == 2
    assert "'none' is no kind of plugin; kinds are aligner" in capsys.readouterr().err


def test_a_named_plugin_is_loaded_and_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MTKD_NO_PLUGINS")
    file = tmp_path / "mine.py"
    file.write_text(
        "from plugins import hookimpl\n\n\n"
        "@hookimpl\ndef routers():\n    return {'mine': dict}\n"
    )
    words = ["plugins", "list", "--json", "--plugin", str(file)]
    assert main(words) in (0, 2)  # 2: another that is installed here is broken
    names = {row["name"] for row in json.loads(capsys.readouterr().out)["plugins"]}
    assert {"mine", "confidence"} <= names


def test_it_does_not_wait_for_torch():
    code = (
        "import sys; from experiments.cli import main; "
        f"main({LIST!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
