"""What is said and kept of an error that ends a command."""

from __future__ import annotations

import errno
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align.errors import (
    PROGRAM_ERROR,
    MtkdError,
    exit_code_of,
    missing_package,
    of_the_machine,
    out_of_memory,
)

ERRORS = "errors"
"""Folder of a run that keeps the tracebacks of mistakes in a program."""


def line_of(error: BaseException) -> str:
    """Say in one line what went wrong, where, and what to do."""
    if exit_code_of(error) != PROGRAM_ERROR:
        return f"error: {_advice(error)}"
    where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, MtkdError):  # it names the plugin or process to blame
        return f"failed: {_one_line(error)}{where}"
    kind = type(error).__name__
    return (
        f"this should not have happened ({kind}: {_one_line(error)}){where}; it is a "
        "mistake in the program, not in your settings: please report it with the "
        "traceback, which `--debug` shows"
    )


@contextmanager
def kept_errors(run_dir: Path) -> Iterator[None]:
    """Keep the traceback of a mistake in a program where the run lies.

    Args:
        run_dir: the run's; the file is ``errors/TIME-RANK.txt`` in it.

    Raises:
        Exception: as raised inside; a mistake carries a note that names the file.
    """
    try:
        yield
    except Exception as error:
        if exit_code_of(error) == PROGRAM_ERROR:
            _keep(run_dir, error)
        raise


def _keep(run_dir: Path, error: Exception) -> None:
    rank = os.environ.get("RANK", "0")
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{rank}.txt"
    file = run_dir / ERRORS / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as refused:  # the error itself matters more than where it is kept
        error.add_note(f"the traceback could not be kept ({refused})")
    else:
        error.add_note(f"traceback in {file}")


def _advice(error: BaseException) -> str:
    if isinstance(error, MtkdError):
        return str(error) or type(error).__name__
    if isinstance(error, OSError) and of_the_machine(error):
        return _refused(error)
    if out_of_memory(error):
        return (
            f"memory does not suffice ({_one_line(error)}); take a lower "
            "train.batch_size with a higher train.grad_accum, a lower data.max_length "
            "or train.gradient_checkpointing=true; `mtkd estimate` says what a config "
            "needs"
        )
    package = missing_package(error)
    return f"this needs the package {package!r}, which is not installed: pip install it"


def _refused(error: OSError) -> str:
    """What the operating system refused, by file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        if error.filename is None:
            return (
                "the disk is full, or where this command's output goes; free some "
                "space there, or set run.dir to another disk, then run the same "
                "command: finished phases are kept"
            )
        return (
            f"the disk is full while writing {error.filename}; free some space, or "
            "move the run's folder to another disk and set run.dir to where it is, "
            "then run the same command: finished phases are kept"
        )
    if error.errno == errno.EFBIG:
        return (
            f"{error.filename or 'what is written to'} would be larger than a file of "
            "this process (`ulimit -f`) or of its file system may be; raise that "
            "limit, or set run.dir to another file system, then run the same command: "
            "finished phases are kept"
        )
    reason = os.strerror(error.errno or 0)
    return (
        f"{error.filename} cannot be used: {reason[:1].lower()}{reason[1:]}; give a "
        "path that is there, or that you may write"
    )


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
