"""What the site of the pages has otherwise than the repository: a hook of mkdocs.

Pages link to sources and tests beside them, which a site has not: there such a link
becomes its words. One to a file that does not exist stays, and ends the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\[([^\]\[]+)\]\((\.\.?/[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Take links that lead out of the pages out of one.

    Args:
        markdown: the page.
        page: of mkdocs; says where the page's file is.
    """
    return without_links_out(markdown, Path(page.file.abs_src_path))


def without_links_out(markdown: str, file: Path) -> str:
    """A page's text without links to files of the repository that are no pages.

    Args:
        markdown: its text.
        file: where it lies, under ``docs``.
    """

    def words(match: re.Match[str]) -> str:
        target = (file.parent / match[2]).resolve()
        outside = not target.is_relative_to(ROOT / "docs")
        return match[1] if outside and target.exists() else match[0]

    return _LINK.sub(words, markdown)
