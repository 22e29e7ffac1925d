"""Entry points as importlib finds them, from distributions made on the spot."""

import hashlib
import os
import py_compile
import sys
import textwrap

import pytest

from plugins import PluginError, Registry
from plugins.discovery import ALLOW, NONE


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with one plugin on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(name, offered, source=None):
        module = f"plugin_of_{name}"
        monkeypatch.delitem(sys.modules, module, raising=False)  # another test's
        text = (
            source
            or f"""
            from plugins import hookimpl

            @hookimpl
            def routers():
                return {{"{offered}": dict}}
        """
        )
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(text))
        info = tmp_path / f"mtkd_{name}-2.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: mtkd-{name}\nVersion: 2.0\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[mtkd]\n{name} = {module}\n")

    return put


def routers(environ=None, **kwargs):
    return Registry.load(environ=environ or {}, **kwargs).names("router")


def test_installed_plugins_are_found_with_distribution_and_version(install):
    install("alpha", "dirichlet")
    registry = Registry.load(environ={})
    row = next(r for r in registry.describe() if r["name"] == "dirichlet")
    assert row == {
        "kind": "router",
        "name": "dirichlet",
        "plugin": "alpha",
        "distribution": "mtkd-alpha",
        "version": "2.0",
    }


def test_a_plugin_installed_and_asked_for_loads_once(install):
    install("alpha", "dirichlet")
    registry = Registry.load(["plugin_of_alpha"], environ={})
    assert registry.names("router").count("dirichlet") == 1


def test_duplicates_name_both_plugins_with_their_distributions(install):
    install("alpha", "dirichlet")
    install("beta", "dirichlet")
    message = r"'dirichlet': 'alpha' \(mtkd-alpha\) and 'beta' \(mtkd-beta\)"
    with pytest.raises(PluginError, match=message):
        Registry.load(environ={})
    with pytest.raises(PluginError, match=message):  # no way to be lax about it
        Registry.load(environ={}, strict=False)
    assert "dirichlet" in routers(skip=["beta"])


def test_a_failing_import_is_an_error_with_its_distribution(install):
    install("alpha", "dirichlet")
    install("torn", "", "import no_such_dependency")
    message = r"'torn' of mtkd-torn 2\.0: .*no_such_dependency.*--skip-plugin torn"
    with pytest.raises(PluginError, match=message):
        Registry.load(environ={})


def test_a_failing_import_is_skipped_on_request_and_stays_visible(install):
    install("alpha", "dirichlet")
    install("torn", "", "raise SystemExit('licence expired')")
    registry = Registry.load(environ={}, strict=False)
    assert "dirichlet" in registry.names("router")
    assert [f.distribution for f in registry.failures] == ["mtkd-torn"]
    # whoever then asks for what it would have offered hears of it
    with pytest.raises(PluginError, match=r"skipped plugin 'torn'.*licence expired"):
        registry.get("router", "wanted")


def test_a_broken_hook_counts_as_a_failure(install):
    install(
        "misspelt", "", "from plugins import hookimpl\n@hookimpl\ndef router(): ..."
    )
    with pytest.raises(PluginError, match=r"mtkd-misspelt 2\.0: .*did you mean 'route"):
        Registry.load(environ={})
    assert len(Registry.load(environ={}, strict=False).failures) == 1


def test_skipped_plugins_are_not_even_imported(install):
    install("torn", "", "raise RuntimeError('imported')")
    assert Registry.load(environ={}, skip=["torn"]).failures == ()
    assert Registry.load(environ={}, skip=["mtkd-torn"]).failures == ()
    assert Registry.load(environ={}, entry_points=False).failures == ()
    # one config serves machines with and without the plugin
    assert Registry.load(environ={}, skip=["torn", "elsewhere"]).failures == ()


def test_the_environment_allows_by_name_or_distribution(install):
    install("alpha", "dirichlet")
    install("beta", "softmin")
    builtin = ["attention", "confidence", "constant", "difficulty", "fixed", "gate"]
    builtin += ["label", "mlp", "prequential", "score"]
    builtin.append("similarity")
    assert routers() == sorted([*builtin, "dirichlet", "softmin"])
    assert routers({ALLOW: "alpha"}) == sorted([*builtin, "dirichlet"])
    assert routers({ALLOW: " mtkd-beta , "}) == sorted([*builtin, "softmin"])
    assert routers({ALLOW: ""}) == builtin
    assert routers({NONE: "1"}) == builtin
    assert routers({NONE: "1", ALLOW: "alpha"}) == builtin
    assert len(routers({NONE: "0"})) == len(builtin) + 2
    with pytest.raises(PluginError, match=r"MTKD_PLUGINS names the plugin 'gamma'"):
        routers({ALLOW: "gamma"})


def test_the_process_environment_counts_by_default(install, monkeypatch):
    install("alpha", "dirichlet")
    monkeypatch.setenv(ALLOW, "")
    assert "dirichlet" not in Registry.load().names("router")
    monkeypatch.setenv(ALLOW, "alpha")
    assert "dirichlet" in Registry.load().names("router")


def test_a_file_runs_as_it_is_read_whatever_compiled_code_lies_beside_it(tmp_path):
    file = tmp_path / "shown.py"
    text = "from plugins import hookimpl\n@hookimpl\ndef routers():\n    return {%s}\n"
    file.write_text(text % "'bad': dict")
    py_compile.compile(str(file), doraise=True)
    when = file.stat()
    file.write_text(text % "'new': dict")  # as many bytes, and the same time
    os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))
    lines: list[str] = []
    registry = Registry.load([str(file)], environ={}, say=lines.append)
    assert "new" in registry.names("router") and "bad" not in registry.names("router")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert lines == [f"plugin {file}: SHA-256 {digest}"]
