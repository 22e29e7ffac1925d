"""What must go with weights or a tokenizer that come from somebody else's model."""

from __future__ import annotations

from pathlib import Path

from teacher.packages.manifest import LICENCE, Manifest, read_manifest

OF_TOKENIZER = f"{LICENCE}.tokenizer"
"""The terms of the model whose tokenizer it is, where that is another one."""


NOTICE = "NOTICE"
_FORBIDS = "That licence forbids handing them on without its terms"


def forbids(folder: Path) -> bool | None:
    """Whether a model's folder says that copies of it may not be handed on.

    By its manifest, or by the notice that an export carries; None where neither says
    anything.
    """
    manifest = read_manifest(folder)
    if manifest is not None and manifest.redistributable is not None:
        return not manifest.redistributable
    notice = folder / NOTICE
    if not notice.is_file():
        return None
    return _FORBIDS in notice.read_text(encoding="utf-8", errors="replace") or None


def licence_notices(
    folder: Path | None, tokenizer: Path | None = None
) -> dict[str, str]:
    """Texts for the export of a student that began as a model with a manifest.

    Args:
        folder: where the files of the model lie that it began as; None where they are
            not here.
        tokenizer: those of the model whose tokenizer it was given in place of its own.

    Returns:
        ``NOTICE`` and the licences' texts by file name, of a model without a manifest
        those that lie in its folder, as of a student that another run left; empty for
        models of which nothing is known, and where their licence is not.
    """
    given = tokenizer is not None and tokenizer != folder
    what = "weights" if given else "weights and this tokenizer"
    notices = _of(folder, f"These {what} come from", "trained further", LICENCE)
    if given:
        of_tokenizer = _of(tokenizer, "This tokenizer comes from", "used", OF_TOKENIZER)
        both = [n[NOTICE] for n in (notices, of_tokenizer) if NOTICE in n]
        notices |= of_tokenizer
        if both:
            notices[NOTICE] = "\n".join(both)
    return notices


def _of(folder: Path | None, comes: str, done: str, file: str) -> dict[str, str]:
    manifest = None if folder is None else read_manifest(folder)
    if folder is None:
        return {}
    if manifest is None or not manifest.licence:
        lying = {name: folder / name for name in (NOTICE, LICENCE, OF_TOKENIZER)}
        return {
            name: path.read_text(encoding="utf-8", errors="replace")
            for name, path in lying.items()
            if path.is_file()
        }
    notices = {NOTICE: _sentences(manifest, comes, done, file)}
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
            f"{_FORBIDS}, which are in {file}: read them before you give this folder "
            "to anybody."
        )
    return "\n".join(lines) + "\n"
