from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_one_version_and_the_authors_of_the_package_are_cited(script):
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = script.tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert script.released_version(ROOT) == cited["version"] == project["version"]
    assert cited["authors"] == project["authors"]
    assert cited["license"] == project["license"]


def test_another_version_in_the_citation_is_refused(script, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 0.1.0\n")
    with pytest.raises(script.ReleaseError, match=r"has version 0\.2\.0, .* 0\.1\.0"):
        script.released_version(tmp_path)


def test_a_wheel_holds_the_six_packages_and_its_own_metadata(script):
    shipped = {"align/kv.py", "experiments/phases/dual.yaml"}
    metadata = {"mtkd-0.1.0.dist-info/RECORD", "mtkd-0.1.0.dist-info/licenses/LICENSE"}
    odd = {
        "tests/test_imports.py",
        "experiments/bench/capture/__main__.py",
        "align/left_over.py",
        "setup.py",
    }
    names = shipped | metadata | odd
    assert set(script.odd_names(names, shipped, of_wheel=True)) == odd


def test_a_source_distribution_holds_what_builds_the_wheel(script):
    shipped = {"align/kv.py"}
    beside = {"PKG-INFO", "pyproject.toml", "mtkd.egg-info/SOURCES.txt"}
    odd = {"tests/test_imports.py", "experiments/bench/__init__.py", "docs/align.md"}
    names = shipped | beside | odd
    assert set(script.odd_names(names, shipped, of_wheel=False)) == odd


def test_what_is_shipped_is_read_off_the_packages(script):
    shipped = script.shipped_files(ROOT)
    assert {"align/kv.py", "experiments/phases/dual.yaml", "fuse/py.typed"} <= shipped
    assert {"experiments/report/layout/web/page.css"} < shipped
    assert "teacher/zoo/weights/t5-mixed.zip" in shipped
    assert not [name for name in shipped if "bench" in name]
