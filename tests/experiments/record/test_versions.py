"""A run keeps what it was made with, and notices code that has changed."""

import json
import platform

import pytest
import torch

from align.foreign.seal import SEAL, SEALED, sealed_text
from experiments.cli import main
from experiments.config.parsing import ConfigError
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from experiments.record.versions import changes, sentence, versions
from experiments.run.context import Stage
from experiments.run.lineage import check_record, record_of, write_record
from student.checkpoint import MARKER
from tests.experiments.small_runs import said, small_config

PLUGIN = """
from plugins import hookimpl
from align.layer_map import {function}


@hookimpl
def layer_maps():
    return {{"mine": {function}}}
"""


@pytest.fixture
def plugin(tmp_path):
    """Writes a file of a plugin with one layer map; a file is imported only once."""

    def write(function):
        path = tmp_path / function / "acme.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(PLUGIN.format(function=function))
        return path

    return write


def record(*plugins, strategy="mine"):
    tree = {
        "teachers": {"a": {"model": "a"}, "b": {"model": "b"}},
        "phases": ["dual"],
        "plugins": list(map(str, plugins)),
        "align": {"layer_mapping_strategy": strategy},
    }
    config = load_config(tree)
    phase = resolve_phase(config, "dual", builtin_presets())
    registry = load_registry(config)
    found = record_of(config, [Stage(phase, ("a",))], {}, registry)
    return json.loads(json.dumps(found))


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "phases" / "1-dual"
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("{}")
    return folder


def test_changed_plugin_code_is_refused_name_by_name_until_asked_for(plugin, finished):
    old, new = record(plugin("uniform")), record(plugin("ratio"))
    write_record(finished, old)
    check_record(finished, old)
    codes = [r["plugins"]["layer_map mine"]["digest"][:12] for r in (old, new)]
    with pytest.raises(ConfigError) as raised:
        check_record(finished, new)
    told = str(raised.value)
    assert "layer map 'mine' of plugin " in told and "--changed-plugins" in told
    assert f"digest {codes[0]} → {codes[1]}" in told
    check_record(finished, new, changed_plugins=True)


def test_records_without_plugins_go_on_and_built_ins_leave_none(plugin, finished):
    now = record(plugin("uniform"))
    write_record(finished, {k: v for k, v in now.items() if k != "plugins"})
    check_record(finished, now)
    assert "plugins" not in record(plugin("uniform"), strategy="ratio")


def test_versions_name_the_libraries_and_differences():
    found = versions()
    assert torch.__version__.startswith(found["torch"].partition("+")[0])
    assert found["python"] == platform.python_version()
    assert {"mtkd", "transformers", "tokenizers"} <= found.keys()
    assert changes({"torch": "1.0", "mtkd": "0.1"}, {"torch": "2.0", "new": "1"}) == [
        "torch 1.0 → 2.0"
    ]
    told = sentence({"mtkd": "0.1", "commit": "ab12", "torch": "2.0"})
    assert told == "mtkd 0.1 (commit ab12), torch 2.0"


@pytest.mark.slow
def test_a_run_keeps_versions_and_goes_on_with_changed_code_when_asked(
    plugin, tiny_zoo, tmp_path, capsys
):
    path = plugin("uniform")
    align = {"layer_mapping_strategy": "mine"}
    config = small_config(tmp_path, tiny_zoo, {"align": align})
    words = ["train", str(config), "--plugin"]
    assert main([*words, str(path)]) == 0
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert identity["versions"] == summary["versions"] == versions()
    assert identity["plugins"] == summary["plugins"]
    assert identity["tried_plugins"].keys() == {"layer_map mine"}
    assert "The layer map `mine`" in (tmp_path / "run" / "report.md").read_text()

    identity["versions"]["torch"] = "1.0"
    sealed = {key: fact for key, fact in identity.items() if key not in (SEALED, SEAL)}
    (tmp_path / "run" / "run.json").write_text(sealed_text(sealed))
    code, told = said([*words, str(plugin("ratio"))], capsys)
    assert code == 2 and "layer map 'mine' of plugin" in told
    assert main([*words, str(plugin("ratio")), "--changed-plugins"]) == 0
    assert "this run goes on with torch 1.0 → " in capsys.readouterr().err
