"""The project's errors: what somebody can put right, told apart from our mistakes.

Everything the project refuses on purpose is a :class:`MtkdError`; its message is one
line that names the place, the value, what is valid and the next step. The command
``mtkd`` prints that line and ends with the error's ``exit_code``. Any other exception
is a mistake in a program, ours or a plugin's: it ends with 1 and keeps its traceback.

Subclasses also derive from the built-in exception that a caller in Python would catch,
such as ``ValueError``; stores, checkpoints and plugins have theirs beside their code.
"""

from __future__ import annotations

from typing import ClassVar


class MtkdError(Exception):
    """Something that the user can put right; the message says how."""

    exit_code: ClassVar[int] = 2
    """What the command ``mtkd`` ends with."""


class InputError(MtkdError, ValueError):
    """A setting, argument, text, model or file which cannot be used."""


class MissingFileError(MtkdError, FileNotFoundError):
    """A file or folder which is not there."""


class MissingPackageError(MtkdError, ImportError):
    """A Python package which is not installed."""


class MachineError(MtkdError, OSError):
    """What the machine refuses: a folder nobody may write, a full disk."""
