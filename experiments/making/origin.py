"""What goes along with a model that another is made of: name, digest, licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.assemble.fingerprint import model_files, weights_digest
from teacher.packages.manifest import LICENCE, read_manifest
from teacher.packages.notices import licence_notices

_TEXTS = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENSE.md", "COPYING", "NOTICE")
"""Files in which a model's folder usually has its terms."""


def origin_of(name: str) -> dict[str, Any]:
    """What the manifest of a model made of another says of that one.

    Args:
        name: as in a config.

    Returns:
        ``title``, ``source``, ``source_sha256`` (of its weights, empty where its files
        are not on this machine), ``licence``, ``redistributable``, and under
        ``notices`` the texts that go along, by file name.
    """
    folder = model_files(name)
    manifest = None if folder is None else read_manifest(folder)
    return {
        "title": name if manifest is None else manifest.title,
        "source": name,
        "source_sha256": weights_digest(name) or "",
        "licence": "" if manifest is None else manifest.licence,
        "redistributable": None if manifest is None else manifest.redistributable,
        "notices": licence_notices(folder) or _terms(folder),
    }


def _terms(folder: Path | None) -> dict[str, str]:
    """Terms of a model without a manifest that names its licence."""
    if folder is None:
        return {}
    return {
        name: (folder / name).read_text(encoding="utf-8", errors="replace")
        for name in (*_TEXTS, LICENCE)
        if (folder / name).is_file()
    }
