"""What must go with weights that were trained from a model of somebody else."""

from __future__ import annotations

from pathlib import Path

from teacher.packages.manifest import LICENCE, read_manifest


def licence_notices(folder: Path | None) -> dict[str, str]:
    """Texts for the export of a student that began as a model with a manifest.

    Args:
        folder: where the model's files lie; None where they are not here.

    Returns:
        ``NOTICE`` and the licence's text by file name; empty for a model of which
        nothing is known, and where its licence is not.
    """
    manifest = None if folder is None else read_manifest(folder)
    if folder is None or manifest is None or not manifest.licence:
        return {}
    lines = [
        f"These weights and this tokenizer come from {manifest.title} "
        f"({manifest.source}), changed or trained further by mtkd. Licence: "
        f"{manifest.licence}."
    ]
    if manifest.redistributable is False:
        lines.append(
            "That licence forbids handing them on without its terms, which are in "
            f"{LICENCE}: read them before you give this folder to anybody."
        )
    notices = {"NOTICE": "\n".join(lines) + "\n"}
    text = folder / LICENCE
    if text.is_file():
        notices[LICENCE] = text.read_text(encoding="utf-8", errors="replace")
    return notices
