"""The project's errors: what somebody can put right, told apart from our mistakes.

Everything the project refuses on purpose is a :class:`MtkdError`; its message is one
line that names the place, the value, what is valid and the next step. The command
``mtkd`` prints that line and ends with the error's ``exit_code``. Any other exception
is a mistake in a program, ours or a plugin's: it ends with 1 and keeps its traceback.

Subclasses also derive from the built-in exception that a caller in Python would catch,
such as ``ValueError``; stores, checkpoints and plugins have theirs beside their code.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

USER_ERROR = 2
"""Exit code for what the user can put right."""

PROGRAM_ERROR = 1
"""Exit code for a mistake in a program, ours or a plugin's."""


class MtkdError(Exception):
    """Something that the user can put right; the message says how."""

    exit_code: int = USER_ERROR
    """What the command ``mtkd`` ends with."""


class InputError(MtkdError, ValueError):
    """A setting, argument, text, model or file which cannot be used."""


class MissingFileError(MtkdError, FileNotFoundError):
    """A file or folder which is not there."""


class MissingPackageError(MtkdError, ImportError):
    """A Python package which is not installed."""


class RunError(MtkdError, RuntimeError):
    """A run which cannot go on as it was asked to."""


class MachineError(MtkdError, OSError):
    """What the machine refuses: a folder nobody may write, a full disk."""


def nearest(wrong: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant by a wrong one; None where none is like it."""
    near = difflib.get_close_matches(wrong, list(names), n=1)
    return near[0] if near else None


def meant(wrong: str, names: Iterable[str]) -> str:
    """``; did you mean 'train'?``, or a full stop where no name is like it."""
    near = nearest(wrong, names)
    return f"; did you mean {near!r}?" if near else "."


def exit_code_of(error: BaseException) -> int:
    """Tell what somebody can put right from a mistake in a program.

    Besides the project's own errors, what the machine refuses counts as the user's:
    a file that cannot be read or written, memory that does not suffice, a package
    that is not installed.

    Returns:
        :data:`USER_ERROR`, :data:`PROGRAM_ERROR`, or what the error itself says.
    """
    if isinstance(error, MtkdError):
        return error.exit_code
    is_the_users = (
        of_the_machine(error) or out_of_memory(error) or missing_package(error)
    )
    return USER_ERROR if is_the_users else PROGRAM_ERROR


def of_the_machine(error: BaseException) -> bool:
    """Whether the operating system refused a file or folder, or a disk is full."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, OSError) and (
        error.errno in full or (error.errno is not None and error.filename is not None)
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, the accelerator's or the machine's."""
    torch_says = type(error).__name__ == "OutOfMemoryError"  # known without torch
    return (
        isinstance(error, MemoryError)
        or torch_says
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def missing_package(error: BaseException) -> str | None:
    """The package of others which an import did not find, None for anything else."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    our_packages = ("align", "teacher", "fuse", "student", "plugins", "experiments")
    return None if package in our_packages else package


@contextmanager
def prefix_errors(place: str) -> Iterator[None]:
    """Put a place in front of what the user is told to put right inside this block.

    Args:
        place: a part of the config, such as ``teachers.gpt2``.

    Raises:
        MtkdError: as raised inside, of the same class, with the place.
    """
    try:
        yield
    except MtkdError as error:
        error.args = (f"{place}: {error}", *error.args[1:])
        raise


@contextmanager
def during(work: str) -> Iterator[None]:
    """Note what was being done when a program failed inside this block.

    A mistake of ours or of a plugin says little by itself (``mat1 and mat2 shapes
    cannot be multiplied``); its notes tell where in the run it happened.

    Args:
        work: what is being done, such as ``phase 'dual'``.

    Raises:
        Exception: as raised inside, with a note.
    """
    try:
        yield
    except Exception as error:
        error.add_note(f"in {work}")
        raise
