"""Which known models are here, and where: what stands behind ``pkg:``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from align.errors import InputError, MissingFileError, meant
from align.support.cache_folder import cache_folder
from teacher.packages.known import KNOWN, PackagedModel
from teacher.packages.manifest import Manifest, changed_files, read_manifest


def known_model(name: str) -> PackagedModel:
    """The row of a model.

    Raises:
        ValueError: no such model.
    """
    if name in KNOWN:
        return KNOWN[name]
    raise InputError(
        f"no package is known to hold a model {name!r}{meant(name, KNOWN)} Valid: "
        f"{', '.join(KNOWN)} (`mtkd models list`)"
    )


def fetched_folder(name: str, cache_dir: Path | None = None) -> Path:
    """Where a fetched model lies, or will lie."""
    return _packages(cache_dir) / known_model(name).name


def fetched(name: str, cache_dir: Path | None = None) -> Manifest | None:
    """The manifest of a model that is here, from the packages known today."""
    model = known_model(name)
    manifest = read_manifest(fetched_folder(name, cache_dir))
    same = manifest is not None and manifest.packages == dict(model.packages)
    return manifest if same else None


def package_path(name: str) -> Path:
    """The folder of a fetched model, its files looked at once in a process.

    Raises:
        FileNotFoundError: it has not been fetched.
        ValueError: no such model, or its files are not what was fetched.
    """
    return _checked(name, fetched_folder(name))


@cache
def _checked(name: str, folder: Path) -> Path:
    manifest = fetched(name, folder.parents[1])
    if manifest is None:
        model = known_model(name)
        state = "is of another version" if folder.is_dir() else "has not been fetched"
        raise MissingFileError(
            f"model 'pkg:{name}' {state} ({folder}); run `mtkd models fetch {name}`, "
            f"{size_in_words(model.download)} to download, "
            f"{size_in_words(model.disk)} on disk"
        )
    changed = changed_files(folder, manifest.files)
    if changed:
        raise InputError(
            f"model 'pkg:{name}': {', '.join(changed)} in {folder} changed since it "
            f"was fetched; run `mtkd models fetch {name} --force`"
        )
    return folder


def forget_checks() -> None:
    """Look at files again when they are asked for next."""
    _checked.cache_clear()


def size_in_words(size: int) -> str:
    """A size for people."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _packages(cache_dir: Path | None) -> Path:
    return (cache_folder() if cache_dir is None else cache_dir) / "packages"
