"""Files by what is in them, and draws by what they are for."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed_of(*what: object) -> int:
    """A seed, in [0, 2⁵⁶), of what a draw is for, such as a run's seed, a name, a step.

    The same words give the same seed in any process and version of Python.
    """
    digest = hashlib.sha256(" ".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:7], "big")
