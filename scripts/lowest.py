"""The lowest versions that ``pyproject.toml`` allows, as constraints for pip.

    make test-lowest                         # an environment with them, and the tests
    python scripts/lowest.py > lowest.txt    # the constraints alone

Every library that this project names is held at its declared lower bound, so that tests
say whether the bounds are true. What those libraries need in turn is left to pip, which
takes the newest that fits. Nothing but Python itself is needed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest_versions(project: Mapping[str, Any]) -> dict[str, str]:
    """Lower bounds by the name of a library, over all extras.

    Args:
        project: the table ``project`` of a ``pyproject.toml``.

    Raises:
        ValueError: a library has no lower bound, or two different ones.
    """
    extras = project.get("optional-dependencies", {}).values()
    bounds: dict[str, str] = {}
    for requirement in (
        *project["dependencies"],
        *(r for each in extras for r in each),
    ):
        match = re.fullmatch(r"([\w.-]+)(?:\[.*\])?\s*>=\s*([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r}: give one lower bound, as name>=1.2")
        name, version = match.groups()
        if bounds.setdefault(name, version) != version:
            raise ValueError(
                f"{requirement!r}: another place of pyproject.toml says "
                f"{name}>={bounds[name]}; give both the same"
            )
    return bounds


def main() -> None:
    """Print the constraints, one a line."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    for name, version in sorted(lowest_versions(project).items()):
        sys.stdout.write(f"{name}=={version}\n")


if __name__ == "__main__":
    main()
