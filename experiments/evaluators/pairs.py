"""Questions with answers, from a file of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align.errors import InputError, prefix_errors
from align.text.json_rows import rows_of_lines
from student.evaluators.base import Pair


def read_pairs(sources: Sequence[str]) -> list[Pair]:
    """Read ``prompt`` and ``completion`` of every line of some JSON-lines files.

    Args:
        sources: paths, ``DOMAIN=PATH`` to name the domain; a row's own ``domain`` wins,
            and the file's name serves where there is neither.

    Raises:
        InputError: a row without both texts; names file and line.
        MissingFileError: a file that is not there.
    """
    pairs = []
    for source in sources:
        name, _, rest = source.rpartition("=")
        path = Path(rest)
        with prefix_errors("pairs of prompt and completion"):
            rows = list(rows_of_lines(path))
        for _, where, row in rows:
            texts = row if isinstance(row, dict) else {}
            prompt, completion = texts.get("prompt"), texts.get("completion")
            if not isinstance(prompt, str) or not isinstance(completion, str):
                raise InputError(
                    f"{where}: give an object with the texts prompt and completion"
                )
            domain = texts.get("domain") or name or path.stem
            pairs.append(Pair(prompt, completion, str(domain)))
    if sources and not pairs:
        raise InputError(f"{', '.join(sources)} hold no pairs; give rows")
    return pairs
