"""What may be told to strangers of the places that a config names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from teacher.names import pinned

SERVER = "server:"
LEFT_OUT = "address left out"
_ADDRESS = re.compile(r"://[^/\s]+")
_DRIVE = re.compile(r"[A-Za-z]:\\")
_OF_RUN = ("run.dir", "store.dir")
"""Settings that are folders of this machine, whatever they look like: left out, so that
their defaults hold."""


def public_name(name: str) -> str:
    """A model or a text as a config names it, without where it lies on this machine.

    A folder or file keeps its last part alone, a server loses its address; names of the
    hub, ``zoo:`` and ``pkg:`` stay. ``domain=path`` keeps its domain.
    """
    if name.startswith(SERVER):
        return f"{SERVER}({LEFT_OUT})"
    if "://" in name:
        return _ADDRESS.sub(f"://({LEFT_OUT})", name)
    if pinned(name):
        return name
    if "{" in name or "\n" in name:  # a template or a text, no place
        return name
    if _DRIVE.match(name):
        return PureWindowsPath(name).name
    for joined in ("=", ":"):
        before, separator, path = name.partition(joined)
        if separator and "/" not in before and is_local(path):
            return f"{before}{joined}{last_part(path)}"
    return last_part(name) if is_local(name) else name


def is_local(text: str) -> bool:
    """Whether a text is a path of this machine and no name of the hub."""
    if "\n" in text or not text.strip():
        return False
    looks = text.startswith(("/", "~", "./", "../")) or text.count("/") > 1
    try:
        return looks or ("/" in text and Path(text).exists())
    except (OSError, ValueError):  # longer than any path may be
        return False


def last_part(path: str) -> str:
    """The last part of a path; itself where there is none."""
    return Path(path).name or path


def without_places(tree: Any, name: str = "") -> Any:
    """A config with places of this machine cut to their last part.

    Args:
        tree: mappings, lists and values, as of a run's config.yaml.
        name: of the setting, by dots.
    """
    if isinstance(tree, Mapping):
        inside = f"{name}." if name else ""
        kept = {k: v for k, v in tree.items() if f"{inside}{k}" not in _OF_RUN}
        return {k: without_places(v, f"{inside}{k}") for k, v in kept.items()}
    if isinstance(tree, list):
        return [without_places(value) for value in tree]
    return public_name(tree) if isinstance(tree, str) else tree
