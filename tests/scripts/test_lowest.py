import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def test_every_extra_is_counted_and_the_bound_is_the_version(script):
    project = {
        "dependencies": ["torch>=2.10", "pydantic-core[a,b] >= 2.1.post1"],
        "optional-dependencies": {"ot": ["POT>=0.9.5"], "dev": ["POT>=0.9.5"]},
    }
    assert script.lowest_versions(project) == {
        "torch": "2.10",
        "pydantic-core": "2.1.post1",
        "POT": "0.9.5",
    }


@pytest.mark.parametrize(
    ("requirements", "said"),
    [
        (["torch"], "'torch': give one lower bound"),
        (["torch<3"], "'torch<3': give one lower bound"),
        (["torch>=2,<3"], "give one lower bound"),
        (["torch>=2.10", "torch>=2.11"], r"another place .* says torch>=2\.10"),
    ],
)
def test_a_bound_that_is_missing_or_told_twice_is_refused(requirements, said, script):
    with pytest.raises(ValueError, match=said):
        script.lowest_versions({"dependencies": requirements})


def test_what_is_tested_with_lies_at_or_above_every_bound(script):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    pinned = {name.lower().replace("_", "-"): v for name, v in pinned.items()}
    for name, version in script.lowest_versions(project).items():
        tested = pinned[name.lower().replace("_", "-")]
        assert numbers(tested) >= numbers(version), f"{name}: {tested} < {version}"
