"""A stranger's real package: built, installed, discovered, and true to its kinds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.scaffold import new_plugin

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parent / "third_party"


def pip_install(package: Path, target: Path) -> None:
    """Build and install without network, into a folder of its own."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    options = ["--no-build-isolation", "--no-index", "--target", str(target)]
    done = subprocess.run(
        [*command, *options, str(package)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def python(code: str, *path: Path, **environ: str) -> str:
    """Run code in a fresh interpreter that sees these folders."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MTKD_")}
    env["PYTHONPATH"] = os.pathsep.join(str(p) for p in [*path, ROOT])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env | environ,
        cwd=path[0],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site folder with the example package installed."""
    work = tmp_path_factory.mktemp("third_party")
    shutil.copytree(PACKAGE, work / "source")  # building writes beside the source
    pip_install(work / "source", work / "site")
    return work / "site"


DESCRIBE = "import json, plugins; print(json.dumps(plugins.Registry.load().describe()))"


def test_the_installed_package_is_discovered(site):
    rows = json.loads(python(DESCRIBE, site))
    theirs = [r for r in rows if r["distribution"] == "mtkd-example-plugin"]
    assert [(r["kind"], r["name"]) for r in theirs] == [
        ("router", "dirichlet"),
        ("objective", "huber_k"),
    ]
    assert {(r["plugin"], r["version"]) for r in theirs} == {("example", "1.2.3")}


def test_the_installed_package_is_left_alone_where_it_is_not_allowed(site):
    rows = json.loads(python(DESCRIBE, site, MTKD_PLUGINS=""))
    assert {r["distribution"] for r in rows} == {"mtkd"}


def test_what_it_offers_keeps_the_contracts(site):
    code = """
from plugins import Registry
from plugins.contracts import assert_contract
registry = Registry.load()
for kind, name in (("router", "dirichlet"), ("objective", "huber_k")):
    assert_contract(kind, registry.get(kind, name))
print("kept")
"""
    assert python(code, site).strip() == "kept"


def test_it_is_usable_from_a_checkout_without_being_installed():
    code = """
from plugins import Registry
print(Registry.load(["mtkd_example_plugin"]).names("router"))
"""
    assert "dirichlet" in python(code, PACKAGE / "src")


@pytest.mark.slow
def test_a_scaffolded_package_installs_and_passes_its_own_tests(tmp_path):
    folder = new_plugin("spread", "router", tmp_path)
    pip_install(folder, tmp_path / "site")
    rows = json.loads(python(DESCRIBE, tmp_path / "site"))
    row = next(r for r in rows if r["distribution"] == "mtkd-spread")
    assert (row["kind"], row["name"]) == ("router", "spread")
    code = f"import pytest; print(pytest.main(['-q', {str(folder / 'tests')!r}]))"
    assert "2 passed" in python(code, tmp_path / "site")
