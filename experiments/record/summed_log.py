"""A log of JSON lines whose damage is found: checksums of them stand in a file beside.

The log itself stays what everybody can read and append to, a JSON object a line. A
line and its sum are two writes, line first; a process that dies between them leaves a
last line without a sum, which is taken as it is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.foreign.quote import say
from align.support.whole_file import whole_file

_ROW = 18
"""Characters of a row of sums."""
SUMS = ".sums"
"""What a log's sums are called, behind the log's own name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """What a log holds, and what of it is not as it was written."""

    records: Sequence[dict[str, Any]]
    """Of the lines that are sound, in order."""
    faults: Sequence[str] = ()
    """A sentence on everything that was left out, or is no longer there."""


class SummedLog:
    """Appends to a log and reads it; one process at a time writes."""

    def __init__(self, path: Path) -> None:
        """Nothing is read or written yet."""
        self.path = path
        self._sums = path.with_name(path.name + SUMS)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        if self.path.is_file() and not self._sums.is_file():
            self.mend()  # of an earlier version
        row = json.dumps(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(row + "\n")
        head = "" if self._sums.is_file() else self._head()
        with self._sums.open("a", encoding="ascii") as file:
            file.write(f"{head}{_entry(row.encode())}\n")

    def read(self) -> Logged:
        """Every sound line, and what is wrong with the others.

        Logs of earlier versions have no sums: of those any JSON object is sound.

        Raises:
            OSError: it cannot be read.
        """
        rows, faults = self._sound_rows()
        return Logged(records=[json.loads(row) for row in rows], faults=faults)

    def mend(
        self, keep: Callable[[dict[str, Any]], bool] = lambda record: True
    ) -> Logged:
        """Take out what is damaged and what is no longer wanted; sum what is left.

        Args:
            keep: whether a line stays.

        Returns:
            What :meth:`read` gave before, with the faults that are mended now.
        """
        rows, faults = self._sound_rows()
        records = [json.loads(row) for row in rows]
        kept = [row for row, record in zip(rows, records, strict=True) if keep(record)]
        if self.path.is_file():
            sums = self._head() + "".join(f"{_entry(row)}\n" for row in kept)
            # Sums first: between the two writes there are lines without sums, which is
            # how lines are left that were written last.
            _replace(self._sums, sums.encode())
            _replace(self.path, b"".join(row + b"\n" for row in kept))
        else:
            self._sums.unlink(missing_ok=True)
        return Logged(records=records, faults=faults)

    def mend_aloud(self) -> None:
        """:meth:`mend`, with a warning on stderr of everything that was wrong."""
        for fault in self.mend().faults:
            say(f"warning: {fault}")

    def content(self) -> tuple[bytes | None, bytes | None]:
        """All of it as it is, for :meth:`put_back`."""
        return _bytes(self.path), _bytes(self._sums)

    def put_back(self, content: tuple[bytes | None, bytes | None]) -> None:
        """Make it what it was."""
        for path, data in zip((self.path, self._sums), content, strict=True):
            if data is None:
                path.unlink(missing_ok=True)
            else:
                _replace(path, data)

    def _sound_rows(self) -> tuple[list[bytes], list[str]]:
        sums = self._read_sums()  # before the log, which may grow meanwhile
        data = _bytes(self.path)
        if data is None:
            lost = f"{self.path} is missing, though it was written"
            return [], [lost] if sums else []
        rows = data.split(b"\n")
        torn = bool(rows[-1].strip()) and not _is_record(rows[-1])
        numbered = {n: row for n, row in enumerate(rows, start=1) if row.strip()}
        if torn:
            numbered.pop(len(rows))
        wrong = [number for number, row in numbered.items() if not _is_record(row)]
        if sums is not None:
            beyond = max(0, len(numbered) - sums.count)
            unsummed = list(numbered)[len(numbered) - beyond :]  # written last
            changed = [
                number
                for number, row in numbered.items()
                if number not in (*wrong, *unsummed) and _entry(row) not in sums.entries
            ]
            wrong += changed[: max(0, len(changed) - sums.damaged)]
        lost_lines = sums.count - len(numbered) if sums else 0
        faults = self._told(sorted(wrong), lost_lines, torn)
        return [row for n, row in numbered.items() if n not in wrong], faults

    def _told(self, wrong: Sequence[int], lost: int, torn: bool) -> list[str]:
        faults = []
        if wrong:
            shown = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
            lines = f"lines {shown} are" if len(wrong) > 1 else f"line {shown} is"
            faults.append(
                f"{self.path}: {lines} not as written, and left out; to have edited "
                f"lines taken as they are, delete {self._sums}"
            )
        if torn:
            faults.append(f"{self.path} ends in half a line, which is left out")
        if lost > torn:
            lines = (
                f"{lost - torn} lines that were"
                if lost > torn + 1
                else "1 line that was"
            )
            faults.append(f"{self.path} lacks {lines} written")
        return faults

    def _head(self) -> str:
        return f"checksums of the lines of {self.path.name}\n"

    def _read_sums(self) -> _Sums | None:
        """None where there are none, or those of another log."""
        data = _bytes(self._sums)
        head, _, rest = (data or b"").partition(b"\n")
        if data is None or head + b"\n" != self._head().encode():
            return None
        rows = rest.decode("ascii", errors="replace").splitlines(keepends=True)
        good = [r for r in rows if len(r) == _ROW and r == f"{r[:8]} {r[:8]}\n"]
        lines = round(len(rest) / _ROW)  # where a newline is damaged, too
        return _Sums(
            entries=frozenset(row[:-1] for row in good),
            count=lines,
            damaged=lines - len(good),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sums:
    """What stands in a file of sums."""

    entries: frozenset[str]
    count: int
    """Rows, damaged ones included."""
    damaged: int


def _entry(row: bytes) -> str:
    """CRC-32, which finds every flipped bit; twice, so that its own are found, too."""
    crc = f"{zlib.crc32(row):08x}"
    return f"{crc} {crc}"


def _is_record(row: bytes) -> bool:
    try:
        return isinstance(json.loads(row), dict)
    except (ValueError, RecursionError):
        return False


def _replace(path: Path, data: bytes) -> None:
    if _bytes(path) != data:
        with whole_file(path) as part:
            part.write_bytes(data)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
