"""The plugin commands of README and docs/plugins.md do what they say, as written."""

import shlex
from pathlib import Path

import pytest

from experiments.cli import main
from tests.experiments.conftest import no_pictures  # noqa: F401 runs draw nothing
from tests.experiments.small_runs import small_config

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "my-router", "docs/plugins.md": "nearest"}


def commands(page):
    """Lines of the page's first block that writes a plugin, without comments."""
    blocks = (ROOT / page).read_text(encoding="utf-8").split("```bash\n")[1:]
    block = next(b for b in blocks if "mtkd plugins new" in b).split("```")[0]
    return [shlex.split(line, comments=True) for line in block.splitlines() if line]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTKD_NO_PLUGINS", "1")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_what_a_file_can_do_works_line_by_line(page, here, capsys):
    done = []
    for words in commands(page):
        installed = "--plugin" not in words and words[:3] != ["mtkd", "plugins", "new"]
        if words[:1] != ["mtkd"] or installed or words[1] == "train":
            continue
        assert main(words[1:]) == 0, capsys.readouterr()
        done.append(words[2])
    assert {"new", "check"} <= set(done)
    assert "broken" not in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_installed_packages_are_named_as_they_are_written(page, here):
    words = {tuple(line[:3]): line for line in commands(page)}
    main(words["mtkd", "plugins", "new"][1:])
    folder = words["pip", "install", "-e"][3]
    project = (here / folder / "pyproject.toml").read_text()
    assert f'{PAGES[page]} = "' in project
    assert words["mtkd", "plugins", "check"][3] == PAGES[page]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_run_takes_the_plugin_as_the_page_says(page, here, tiny_zoo):
    changes = {"phases": ["routing"], "phase": {"routing": {"teachers": {"min": 2}}}}
    small_config(here, tiny_zoo, changes).rename(here / "my.yaml")
    lines = commands(page)
    main(lines[0][1:])
    train = next(words for words in lines if words[1] == "train")
    if "--plugin" not in train:  # the page installs it first
        train += ["--plugin", str(next(here.glob("mtkd-*/mtkd_*.py")))]
    assert main(train[1:]) == 0
    assert f"router `{PAGES[page]}`" in (here / "run" / "report.md").read_text()
