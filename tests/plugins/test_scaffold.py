import importlib.util
import tomllib

import pytest

from plugins import KINDS, PluginError, Registry
from plugins.contracts.check import check
from plugins.scaffold import new_plugin
from tests.everyday import some_daily


@pytest.mark.parametrize("kind", some_daily(KINDS, lambda kind: kind != "space"))
def test_the_written_example_works_and_keeps_its_contract(kind, tmp_path):
    folder = new_plugin("my_first", kind, tmp_path)
    assert folder.name == "mtkd-my-first"
    registry = Registry.load([str(folder / "mtkd_my_first.py")], entry_points=False)
    offered = registry.get(kind, "my_first")
    broken = [result for result in check(kind, offered) if not result.ok]
    assert not broken
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["mtkd"] == {"my_first": "mtkd_my_first"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["my-first", "class", "a-b_c2"])
def test_any_name_that_a_config_can_say_becomes_python(name, kind, tmp_path):
    folder = new_plugin(name, kind, tmp_path)
    (module,) = folder.glob("mtkd_*.py")
    registry = Registry.load([str(module)], entry_points=False)
    assert registry.entry(kind, name).foreign
    assert folder.name == f"mtkd-{name.replace('_', '-')}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_files_compile_and_name_what_exists(kind, tmp_path):
    folder = new_plugin("my_first", kind, tmp_path)
    for path in folder.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")
        assert "$" not in path.read_text()
    readme = (folder / "README.md").read_text()
    assert KINDS[kind] in readme and "$" not in readme
    assert importlib.util.find_spec("plugins.contracts.check") is not None


def test_nothing_is_overwritten_and_bad_names_are_refused(tmp_path):
    new_plugin("mine", "router", tmp_path)
    with pytest.raises(PluginError, match="exists; choose another"):
        new_plugin("mine", "router", tmp_path)
    with pytest.raises(PluginError, match="cannot be called 'My Router'"):
        new_plugin("My Router", "router", tmp_path)
    with pytest.raises(PluginError, match=r"'optimizer' is no kind.*aligner"):
        new_plugin("mine", "optimizer", tmp_path)
