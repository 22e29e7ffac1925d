"""The hooks of .pre-commit-config.yaml call what there is."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
(REPO,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
HOOKS = {hook["id"]: hook for hook in REPO["hooks"]}
FROM = {"check-added-large-files": "pre-commit-hooks"}
"""Programs that are called otherwise than the library that brings them."""


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_calls_a_make_target_or_a_program_of_the_environment(name):
    words = HOOKS[name]["entry"].split()
    assert HOOKS[name]["language"] == "system"  # nothing is downloaded at a commit
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[-1] in targets
    else:
        assert words[:2] == ["bash", "scripts/in_venv.sh"]
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        dev = {re.split("[<>=]", line)[0] for line in _extra(project, "dev")}
        assert FROM.get(words[2], words[2]) in dev


def _extra(project, name):
    return project["optional-dependencies"][name]


@pytest.mark.parametrize(
    ("changed", "hooks"),
    [
        ("align/kv.py", {"docs", "mypy"}),
        ("docs/config.md", {"docs"}),
        ("scripts/techniques.yaml", {"docs"}),
        ("docs/align.md", set()),
        ("tests/align/test_kv.py", set()),
    ],
)
def test_pages_and_types_are_looked_at_when_their_sources_change(changed, hooks):
    filtered = {name: hook["files"] for name, hook in HOOKS.items() if "files" in hook}
    assert {n for n, where in filtered.items() if re.search(where, changed)} == hooks
    assert HOOKS["mypy"]["stages"] == ["manual"]  # too slow for every commit
