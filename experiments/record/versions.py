"""What a run was made with: this project, its libraries, Python."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from plugins.entry import PROJECT, version_of_mtkd

LIBRARIES = ("torch", "transformers", "tokenizers")
"""Whose versions may change a number."""


def versions() -> dict[str, str]:
    """Version by name; ``commit`` where this is a checkout with Git at hand.

    They are those of this process, whatever is installed or committed while it runs:
    what it has imported stays.
    """
    return dict(_versions_here())


@functools.cache
def _versions_here() -> dict[str, str]:
    numbers = {PROJECT: version_of_mtkd()}
    commit = _commit()
    if commit:
        numbers["commit"] = commit
    numbers["python"] = platform.python_version()
    for name in LIBRARIES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """``torch 2.10 → 2.11`` for every name whose version is known and differs."""
    return [
        f"{name} {before[name]} → {value}"
        for name, value in now.items()
        if before.get(name, value) != value
    ]


def sentence(numbers: Mapping[str, str]) -> str:
    """``mtkd 0.1.0 (commit ab12), python 3.12, torch 2.10``."""
    commit = numbers.get("commit", "")
    parts = []
    for name, value in numbers.items():
        if name == "commit":
            continue
        more = f" (commit {commit})" if name == PROJECT and commit else ""
        parts.append(f"{name} {value}{more}")
    return ", ".join(parts)


def _commit() -> str:
    """Of the checkout that this file is in, with ``+`` where files have changed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        shown = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return ""
    return shown + "+" * dirty


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()
