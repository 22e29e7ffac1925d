"""Which folders of a run this account has written: signed with a key of its own.

A run's folder may come from anywhere, with markers, digests and names that fit: nothing
in it can say whose it is. So whoever writes a phase or a checkpoint signs its marker,
which holds the digests of all its files, with a key that lies outside of every run.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from align.errors import InputError, MachineError
from align.foreign.marker import MARKER
from align.support.cache_folder import Places, cache_folder, user_folder

SIGNATURE = ".signature"
"""In a signed folder: HMAC-SHA256 of its marker, in hexadecimal."""
KEY = "key"
"""32 random bytes, which only their owner may read."""


class UnsignedError(InputError):
    """A folder of a run that this account has not written."""


_SETTINGS = Places(
    xdg="XDG_CONFIG_HOME",
    windows="APPDATA",
    darwin="Library/Application Support",
    other=".config",
)
_PURPOSE = b"mtkd: I wrote this folder of a run\0"


def key_file(
    environ: Mapping[str, str] | None = None, platform: str = sys.platform
) -> Path:
    """Where the key lies, which need not be there yet.

    ``mtkd`` in ``$XDG_CONFIG_HOME`` if that is set, else in the platform's place:
    ``~/Library/Application Support`` on macOS, ``%APPDATA%`` on Windows, ``~/.config``
    anywhere else.

    Args:
        environ: the environment; None for the process's own.
        platform: as ``sys.platform`` says it.

    Source:
        XDG Base Directory Specification 0.8: a relative ``XDG_CONFIG_HOME`` is invalid
        and ignored.
    """
    env = os.environ if environ is None else environ
    return user_folder(_SETTINGS, env, platform) / KEY


def signing_key() -> bytes:
    """This account's key; made where there is none.

    It lies in the cache where the account has no folder for settings that it may write.

    Raises:
        InputError: others may read the key, or it is damaged.
        MachineError: it can be kept nowhere.
    """
    places = _places()
    for place in places:
        if not any(map(Path.is_file, places)):
            with suppress(OSError):
                _make(place)
    key = _known_key()
    if key is not None:
        return key
    raise MachineError(
        f"the key that signs what this account writes can be kept neither in "
        f"{places[0]} nor in {places[1]}; name a folder that can be written with "
        "XDG_CONFIG_HOME"
    )


def _places() -> list[Path]:
    return [key_file(), cache_folder() / KEY]


def _known_key() -> bytes | None:
    """The account's key, if it has one."""
    place = next(filter(Path.is_file, _places()), None)
    return None if place is None else _read(place)


def _make(place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix=f".{KEY}.", dir=place.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            if _open_to_others(os.fstat(handle)):  # a file system without modes
                raise PermissionError(errno.EPERM, "cannot be kept from others", name)
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first
            os.link(name, place)
    finally:
        os.unlink(name)


def _read(place: Path) -> bytes:
    if _open_to_others(place.stat()):
        raise InputError(
            f"{place} signs what this account writes, and others may read it; delete "
            "it (a run that goes on then asks for --trust-checkpoint), or `chmod 600` "
            "it if nobody has"
        )
    key = place.read_bytes()
    if len(key) != 32:
        raise InputError(
            f"{place} holds {len(key)} bytes and no key; delete it (a run that goes on "
            "then asks for --trust-checkpoint)"
        )
    return key


def _open_to_others(status: os.stat_result) -> bool:
    return os.name == "posix" and bool(status.st_mode & 0o077)


def sign(folder: Path) -> None:
    """Sign a folder whose marker is written."""
    place = folder / SIGNATURE
    place.unlink(missing_ok=True)  # of others, and perhaps a link
    with place.open("xb") as file:
        file.write(_signature(folder, signing_key()) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def is_signed(folder: Path) -> bool:
    """Whether this account wrote a folder's marker, as it is now."""
    place, key = folder / SIGNATURE, _known_key()
    if key is None or not place.is_file():
        return False
    with place.open("rb") as file:
        there = file.read(100).strip()
    return hmac.compare_digest(there, _signature(folder, key))


def check_signed(folder: Path, trust: bool = False) -> None:
    """Refuse to go on from a folder that this account has not written.

    Args:
        folder: complete, its files seen to be as its marker says.
        trust: take it all the same, and from now on as this account's own.

    Raises:
        UnsignedError: it is not signed with this account's key.
    """
    if is_signed(folder):
        return
    if trust:
        sign(folder)
        return
    raise UnsignedError(
        f"{folder} is not signed with the key of this account: it comes from "
        "somewhere or somebody else, or from an earlier version, which signed nothing; "
        "if you know where it comes from, go on once with --trust-checkpoint, else "
        "choose another run.name"
    )


def _signature(folder: Path, key: bytes) -> bytes:
    text = _PURPOSE + (folder / MARKER).read_bytes()
    return hmac.new(key, text, "sha256").hexdigest().encode()
