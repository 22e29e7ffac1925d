"""JSON that vouches for itself: damage to it is found before anybody goes by it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.errors import InputError

SEALED = "mtkd_sealed"
"""First key of a sealed file, with the version of the seal; the digest covers it."""
SEAL = "mtkd_sha256"
"""Last key of a sealed file: the SHA-256 of the text without this key."""

_VERSION = 1
_END = "\n}"
_SEALED_TEXT = re.compile(
    rb'(.*),\n "' + SEAL.encode() + rb'": "([0-9a-f]{64})"\n}\n', re.DOTALL
)


class DamageError(InputError):
    """A file is not what was written; the text names it, and says no way on yet."""


def sealed_text(content: Mapping[str, Any]) -> str:
    """A JSON object that vouches for itself.

    Two keys that lie apart say that there is a seal: damage to one of them leaves the
    other, so that no flipped bit makes of a sealed file one that never had a seal.
    """
    text = json.dumps({SEALED: _VERSION, **content}, indent=1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text.removesuffix(_END)},\n "{SEAL}": "{digest}"{_END}\n'


def read_sealed(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a JSON object, sealed or of an earlier version that sealed nothing.

    Returns:
        The object without its seal, and whether it had one.

    Raises:
        DamageError: no JSON object, or not the very text that was sealed.
        OSError: it cannot be read.
    """
    return unseal(path.read_bytes(), path)


def unseal(data: bytes, path: Path) -> tuple[dict[str, Any], bool]:
    """:func:`read_sealed` of bytes that were read; ``path`` is what they are called."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{path} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise DamageError(f"{path} is damaged (it holds no JSON object)")
    if not content.keys() & {SEALED, SEAL}:
        return content, False
    sealed = _SEALED_TEXT.fullmatch(data)
    whole = sealed[1] + _END.encode() if sealed else b""
    if not sealed or hashlib.sha256(whole).hexdigest().encode() != sealed[2]:
        raise DamageError(f"{path} is damaged or edited (it has another digest)")
    return {k: v for k, v in content.items() if k not in (SEALED, SEAL)}, True
