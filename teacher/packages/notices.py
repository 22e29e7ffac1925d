"""What must go with weights or a tokenizer that come from somebody else's model."""

from __future__ import annotations

from pathlib import Path

from teacher.packages.manifest import LICENCE, Manifest, read_manifest

OF_TOKENIZER = f"{LICENCE}.tokenizer"
"""The terms of the model whose tokenizer it is, where that is another one."""


def licence_notices(
    folder: Path | None, tokenizer: Path | None = None
) -> dict[str, str]:
    """Texts for the export of a student that began as a model with a manifest.

    Args:
        folder: where the files of the model lie that it began as; None where they are
            not here.
        tokenizer: those of the model whose tokenizer it was given in place of its own.

    Returns:
        ``NOTICE`` and the licences' texts by file name; empty for models of which
        nothing is known, and where their licence is not.
    """
    given = tokenizer is not None and tokenizer != folder
    what = "weights" if given else "weights and this tokenizer"
    notices = _of(folder, f"These {what} come from", "trained further", LICENCE)
    if given:
        of_tokenizer = _of(tokenizer, "This tokenizer comes from", "used", OF_TOKENIZER)
        both = [n["NOTICE"] for n in (notices, of_tokenizer) if n]
        notices |= of_tokenizer
        if both:
            notices["NOTICE"] = "\n".join(both)
    return notices


def _of(folder: Path | None, comes: str, done: str, file: str) -> dict[str, str]:
    manifest = None if folder is None else read_manifest(folder)
    if folder is None or manifest is None or not manifest.licence:
        return {}
    notices = {"NOTICE": _sentences(manifest, comes, done, file)}
    text = folder / LICENCE
    if text.is_file():
        notices[file] = text.read_text(encoding="utf-8", errors="replace")
    return notices


def _sentences(manifest: Manifest, comes: str, done: str, file: str) -> str:
    lines = [
        f"{comes} {manifest.title} ({manifest.source}), changed or {done} by mtkd. "
        f"Licence: {manifest.licence}."
    ]
    if manifest.redistributable is False:
        lines.append(
            "That licence forbids handing them on without its terms, which are in "
            f"{file}: read them before you give this folder to anybody."
        )
    return "\n".join(lines) + "\n"
