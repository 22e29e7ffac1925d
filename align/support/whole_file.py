"""Write a file all at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a hidden name to write, which takes the place of ``path`` afterwards.

    Args:
        path: the final name; its folder is made. A device or pipe, such as
            ``/dev/stdout``, is written to and keeps its place.

    Yields:
        A name beside it, gone again where writing fails.

    Raises:
        OSError: it cannot be written; names ``path``, not the hidden name.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    part = path.parent / f".{path.name}.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename in (part, str(part)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # it has its place, or never was
            part.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a text as UTF-8; see :func:`whole_file`."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
