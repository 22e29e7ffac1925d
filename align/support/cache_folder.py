"""Where the project keeps what it can make again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "MTKD_CACHE"
"""Environment variable that names the folder."""


def cache_folder(
    environ: Mapping[str, str] | None = None, platform: str = sys.platform
) -> Path:
    """The folder of embedded teachers and the like, which need not be there yet.

    ``$MTKD_CACHE`` if set, else ``mtkd`` in ``$XDG_CACHE_HOME`` if that is set, else in
    the platform's place: ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows,
    ``~/.cache`` anywhere else.

    Args:
        environ: the environment; None for the process's own.
        platform: as ``sys.platform`` says it.

    Source:
        XDG Base Directory Specification 0.8: a relative ``XDG_CACHE_HOME`` is invalid
        and ignored.
    """
    env = os.environ if environ is None else environ
    if env.get(VARIABLE):
        return Path(env[VARIABLE]).expanduser()
    shared = env.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):
        return Path(shared) / "mtkd"
    if platform == "win32" and env.get("LOCALAPPDATA"):
        return Path(env["LOCALAPPDATA"]) / "mtkd" / "Cache"
    caches = "Library/Caches" if platform == "darwin" else ".cache"
    return Path.home() / caches / "mtkd"
