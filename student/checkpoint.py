"""Folders that appear whole or not at all, and the student's own export."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import InputError, MtkdError
from align.foreign.marker import MARKER, files_in, marker_text, read_marker
from align.foreign.seal import DamageError

if TYPE_CHECKING:
    import torch

_STEP = re.compile(r"step-(\d{8})")
_UNWRITTEN = re.compile(
    r"No space left|Disk quota exceeded|File too large|os error (28|122|27)\b"
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed"
)
"""How safetensors and torch word a write that the system refused."""
_TOO_LARGE = re.compile(r"File too large|os error 27\b")
_REASON = re.compile(rf"No space left|Disk quota|os error \d|{_TOO_LARGE.pattern}")
"""Which of these words say why."""


class CheckpointError(InputError):
    """A checkpoint cannot be used."""


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder; it becomes ``path`` only if nothing was raised.

    Args:
        path: the final place; an older folder there is replaced.

    Yields:
        The folder to write into, beside ``path``.

    Raises:
        OSError: the disk is full or the place cannot be written, whichever library
            found out; the older folder is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with full_disk_named(path):
            yield part
        put_in_place(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished folder its name; what had the name before is removed.

    Where the system can exchange two names (Linux), there is no moment at which
    neither folder has it.
    """
    if not path.exists():
        part.rename(path)
    elif _exchange(part, path):
        shutil.rmtree(part, ignore_errors=True)
    else:
        old = path.with_name(f".{path.name}.old{os.getpid()}")
        path.rename(old)
        part.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names at once; False where the system or its file system cannot."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fs.h
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return swap is not None and swap(here, names[0], here, names[1], exchange) == 0


@contextmanager
def full_disk_named(place: Path) -> Iterator[None]:
    """Make one error of what every library calls differently: no room to write.

    Raises:
        OSError: with the place and ``errno.ENOSPC``, or ``errno.EFBIG`` where a file
            is larger than this process or the file system may write.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EDQUOT, errno.EFBIG):
            raise _no_room(place, error) from error
        raise
    except Exception as error:  # SafetensorError has no better base
        if _UNWRITTEN.search(str(error)):
            raise _no_room(place, error) from error
        raise


def _no_room(place: Path, error: Exception) -> OSError:
    code = errno.EFBIG if _too_large(place, error) else errno.ENOSPC
    return OSError(code, str(error), str(place))


def _too_large(place: Path, error: Exception) -> bool:
    """Whether a limit on the size of one file refused it; torch gives no reason, and
    then it is the limit that is lower than what is free."""
    if isinstance(error, OSError):
        return error.errno == errno.EFBIG
    if _REASON.search(str(error)):
        return bool(_TOO_LARGE.search(str(error)))
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    free = shutil.disk_usage(place.parent).free
    return limit != resource.RLIM_INFINITY and limit < free


def mark_complete(folder: Path, state: dict[str, Any]) -> None:
    """Write the marker: size and SHA-256 of every file, and what the owner wants kept.

    It is sealed, so that damage to what it keeps is found like damage to a file.

    Files are on the disk before the marker is.

    Args:
        folder: filled already.
        state: what :func:`read_complete` gives back.
    """
    text = marker_text(folder, state)
    for file in files_in(folder).values():
        _flush(file)
    (folder / MARKER).write_text(text, encoding="utf-8")
    _flush(folder / MARKER)


def _flush(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def read_complete(folder: Path, digests: bool = False) -> dict[str, Any] | None:
    """The state a complete checkpoint was marked with; None where there is none.

    Args:
        folder: the checkpoint.
        digests: also compare digests; reads every file.

    Raises:
        CheckpointError: the marker is not as it was written, a file it lists is
            missing or has another size or digest, or one is there that it lacks.
        OutsideError: the marker lists a file that is not in the folder.
    """
    try:
        marked = read_marker(folder, digests)
    except DamageError as error:
        raise CheckpointError(
            f"checkpoint {error}; delete the folder {folder} to train this part again "
            "from the one before"
        ) from None
    return None if marked is None else dict(marked.state)


def steps_kept(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder, newest first, verified or not."""
    steps = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        if match := _STEP.fullmatch(entry.name):
            steps.append((int(match[1]), entry))
    return sorted(steps, reverse=True)


def check_marked(folder: Path, *, holding: str) -> None:
    """See that a folder which appears with its marker still has it.

    Args:
        folder: made by :func:`atomic_folder` with its marker, if it is there.
        holding: a name in it, by which it is known.

    Raises:
        CheckpointError: it has none: what is whole would be trained again in silence.
    """
    marker = folder / MARKER
    if (folder / holding).exists() and not marker.is_file():
        raise CheckpointError(
            f"checkpoint marker {marker} is missing, though the folder appeared with "
            "it; put it back from a copy, or delete the folder to train this part again"
        )


def export_student(
    model: Any, tokenizer: Any, path: Path, notices: Mapping[str, str] | None = None
) -> None:
    """Save a student that plain transformers loads, readable by the user's umask.

    Args:
        model: a ``PreTrainedModel``.
        tokenizer: its tokenizer.
        path: folder, replaced as a whole.
        notices: texts that go with it, such as its base's licence, by file name.

    Raises:
        ValueError: the model has low-rank updates beside its weights, of which
            transformers would save these alone.
        NonFiniteStudentError: a weight is NaN or infinite.
    """
    refuse_non_finite(model.named_parameters(), "the student")
    if getattr(model, "peft_config", None):
        raise InputError(
            "the student has low-rank updates beside its weights, which plain "
            "transformers would save alone; merge them first "
            "(student.lora.merge_adapters)"
        )
    with atomic_folder(path) as folder:
        attention = model.config._attn_implementation
        model.save_pretrained(folder)
        model.config._attn_implementation = attention
        tokenizer.save_pretrained(folder)
        for name, text in (notices or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        make_readable(folder)


class NonFiniteStudentError(MtkdError, RuntimeError):
    """A student of which nothing can be made any more."""


def refuse_non_finite(weights: Iterable[tuple[str, torch.Tensor]], what: str) -> None:
    """See that a student's weights are numbers before it is kept.

    Args:
        weights: by name.
        what: whose it is, such as ``the student of phase 'dual'``.

    Raises:
        NonFiniteStudentError: names the first tensor that holds NaN or an infinity.
    """
    from align.bounds.finite import not_finite

    name = not_finite(weights)
    if name is not None:
        raise NonFiniteStudentError(
            f"{what} is not finite: {name} holds NaN or an infinity, and so it is not "
            "kept; lower train.learning_rate or the largest loss weight, and train "
            "this phase again. What was written before is intact"
        )


def cast_weights(model: Any, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give weights other types, in place.

    Args:
        model: a ``PreTrainedModel``; what it trains, it can train no longer.
        dtypes: by the names of its parameters and buffers; others stay.

    Raises:
        ValueError: a finite weight is beyond what its new type holds.
    """
    import torch

    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        dtype = dtypes.get(name, tensor.dtype)
        if not tensor.is_floating_point() or dtype == tensor.dtype:
            continue
        cast = tensor.data.to(dtype)
        if not torch.equal(cast.isfinite(), tensor.isfinite()):
            reach = float(tensor.data.abs().max())
            raise InputError(
                f"the student's weight {name} reaches {reach:g}, "
                f"beyond {str(dtype).removeprefix('torch.')}; set "
                "student.export_dtype=float32"
            )
        tensor.data = cast


def make_readable(folder: Path) -> None:
    """Give files the mode the user's umask asks for; safetensors writes 0600."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)
