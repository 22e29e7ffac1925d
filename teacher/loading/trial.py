"""Try a file of someone else's in a process that may die, before it is read in ours.

A tokenizer's library is compiled: what it cannot read may end the process, or take all
memory; a chat template is a program. A file that was read once is not tried again: its
digest is kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from align.errors import InputError
from align.support.cache_folder import cache_folder

Kind = Literal["tokenizer", "template"]
_SCRIPT = Path(__file__).with_name("tried.py")
_READERS: dict[Kind, str] = {"tokenizer": "tokenizers", "template": "jinja2"}
SECONDS = 60
"""Of processor time; a vocabulary of 250,000 takes two."""
GIBIBYTES = 8
"""Of address space; such a vocabulary takes one."""


def try_file(path: Path, kind: Kind, what: str) -> None:
    """See that a file can be read by who reads it, and at what cost.

    Args:
        path: of the file.
        kind: who reads it.
        what: it is, for the error.

    Raises:
        InputError: the process that tried it died, or took too much.
    """
    _try(path.read_bytes(), path, kind, what)


def try_text(text: str, kind: Kind, what: str) -> None:
    """The same of what stands in a file beside other things."""
    content = text.encode(errors="surrogatepass")
    if _is_known(content, kind):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind
        path.write_bytes(content)
        _try(content, path, kind, what)


def _try(content: bytes, path: Path, kind: Kind, what: str) -> None:
    if _is_known(content, kind):
        return
    bounds = [str(SECONDS), str(GIBIBYTES << 30)]
    command = [sys.executable, "-P", str(_SCRIPT), kind, str(path), *bounds]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=4 * SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"reading it takes more than {4 * SECONDS} s"
        raise InputError(f"{what} cannot be read: {reason}; {_ADVICE}") from None
    if done.returncode:
        raise InputError(f"{what} cannot be read: {_reason(done)}; {_ADVICE}")
    with suppress(OSError):  # it is tried again next time
        mark = _mark(content, kind)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


_ADVICE = "copy it again from where the model came from, or leave the model out"


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """How the process ended, or the last line it wrote."""
    if done.returncode < 0:
        if -done.returncode in (signal.SIGXCPU, signal.SIGKILL):
            return f"reading it takes more than {SECONDS} s of processor time"
        return f"reading it ends the process ({signal.Signals(-done.returncode).name})"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else f"reading it ends with {done.returncode}"


def _is_known(content: bytes, kind: Kind) -> bool:
    with suppress(OSError):
        return _mark(content, kind).is_file()
    return False


def _mark(content: bytes, kind: Kind) -> Path:
    """Where it is noted that a file was read, by whom, and how it was tried."""
    package = _READERS[kind]
    by = f"{package}-{version(package)}\0".encode() + _SCRIPT.read_bytes()
    digest = hashlib.sha256(by + b"\0" + content).hexdigest()
    return cache_folder() / "tried" / digest
