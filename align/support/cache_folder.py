"""Where the project keeps what it can make again."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from align.errors import MachineError

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
    return user_folder(_CACHE, env, platform)


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where a kind of a user's files lies, by platform."""

    xdg: str
    """Variable of the XDG Base Directory Specification."""
    windows: str
    """Variable of Windows."""
    below: str = ""
    """Folder in our own, on Windows."""
    darwin: str
    """In the home folder."""
    other: str
    """Likewise, anywhere else."""


_CACHE = Places(
    xdg="XDG_CACHE_HOME",
    windows="LOCALAPPDATA",
    below="Cache",
    darwin="Library/Caches",
    other=".cache",
)


def user_folder(places: Places, env: Mapping[str, str], platform: str) -> Path:
    """The project's folder among a user's files of one kind.

    Args:
        places: of that kind.
        env: the environment; a relative XDG variable is invalid and ignored.
        platform: as ``sys.platform`` says it.
    """
    shared = env.get(places.xdg, "")
    if os.path.isabs(shared):
        return Path(shared) / "mtkd"
    if platform == "win32" and env.get(places.windows):
        return Path(env[places.windows]) / "mtkd" / places.below
    home = places.darwin if platform == "darwin" else places.other
    return Path.home() / home / "mtkd"


def make_kept_folder(folder: Path, what: str) -> None:
    """Make a folder of the cache.

    Args:
        folder: to make, parents and all; may be there.
        what: is kept in it, for the error.

    Raises:
        OSError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"{what} cannot be kept in {folder}: {error.strerror}; "
            "name a folder that can be written with MTKD_CACHE"
        ) from error


@contextmanager
def made_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside its place; it gets there in one step, if nothing is raised.

    Args:
        path: its place; an older folder there is replaced.

    Yields:
        The folder to write into.
    """
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield fresh
        mode = path.parent.stat().st_mode
        fresh.chmod(mode & 0o777)  # mkdtemp's is 0700
        for entry in fresh.rglob("*"):  # safetensors writes for the owner alone
            entry.chmod(mode & (0o777 if entry.is_dir() else 0o666))
        if path.exists():
            shutil.rmtree(path)
        fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
