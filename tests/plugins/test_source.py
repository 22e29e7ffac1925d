"""The digest of a plugin is that of its code, wherever it lies."""

import importlib
import sys

import pytest

from plugins import Registry
from plugins.source import digest, source_files

PLUGIN = """
from plugins import hookimpl
{more}

@hookimpl
def rope_scalers():
    return {{"flat": lambda base, dim, scale: base}}
"""


def code_of(path):
    registry = Registry.load([str(path)], entry_points=False)
    return registry.entry("rope_scaler", "flat").digest


def written(folder, more=""):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "flat.py"
    path.write_text(PLUGIN.format(more=more))
    return path


def test_a_file_is_known_by_its_bytes_not_by_its_place(tmp_path):
    first = code_of(written(tmp_path / "a"))
    assert len(first) == 64
    assert code_of(written(tmp_path / "b")) == first
    assert code_of(written(tmp_path / "c", "# changed")) != first


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three files and a helper beside it, imported anew each time."""
    monkeypatch.syspath_prepend(str(tmp_path))
    inside = tmp_path / "acme_pack"
    inside.mkdir()
    (inside / "__init__.py").write_text("")
    (inside / "hooks.py").write_text(PLUGIN.format(more="from acme_help import two"))
    (inside / "unused.py").write_text("x = 1\n")
    (inside / "weights.bin").write_bytes(b"0" * 100)
    (tmp_path / "acme_help.py").write_text("def two():\n    return 2\n")

    def load():
        for name in [n for n in sys.modules if n.startswith("acme_")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module("acme_pack.hooks")

    yield tmp_path, load
    for name in [n for n in sys.modules if n.startswith("acme_")]:
        del sys.modules[name]


def test_a_package_is_read_whole_with_the_helpers_beside_it(package):
    _, load = package
    names = [path.name for path in source_files(load())]
    assert names == ["__init__.py", "acme_help.py", "hooks.py", "unused.py"]


@pytest.mark.parametrize("file", ["acme_pack/unused.py", "acme_help.py"])
def test_any_of_its_code_changes_the_digest_and_data_does_not(package, file):
    folder, load = package
    before = digest(load())
    (folder / "acme_pack" / "weights.bin").write_bytes(b"1" * 100)
    assert digest(load()) == before
    with (folder / file).open("a") as changed:
        changed.write("# changed\n")
    assert digest(load()) != before


def test_built_ins_have_no_digest_and_are_nobody_elses():
    entries = Registry.load(entry_points=False).entries()
    assert not any(entry.digest or entry.foreign for entry in entries)
