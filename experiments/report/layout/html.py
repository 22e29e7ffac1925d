"""Write a document as one HTML page that needs nothing else, network included."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from align.foreign.quote import visible
from experiments.report.layout.document import Document, Picture, parts

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

WEB = Path(__file__).parent / "web"

LARGEST_SVG = 400_000
"""Bytes; of longer runs the page shows the PNG."""


PAGE_COLOURS = {
    "#000000": "ink",
    "#444444": "ink",
    "#666666": "soft",
    "#9a9a9a": "soft",
    "#c8c8c8": "soft",
    "#e4e4e4": "grid",
    "#ffffff": "card",
    "#0072b2": "blue",
    "#8b7500": "olive",
}
"""What the page changes in a drawing to suit light and dark, by its own names; what
must stay as it is, as dark words on a pale cell, is drawn in another colour."""


def html(document: Document, figures: Path) -> str:
    """The document as a page, with the pictures of a folder in it.

    Everything but this project's own style, script and drawings is escaped. The page
    forbids itself all connections and every script but its own.

    Args:
        document: what to write.
        figures: where its pictures lie, as PNG and, for some, as SVG.
    """
    script = (WEB / "page.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return _template().render(
        document=document,
        script=_trusted(script),
        script_digest=base64.b64encode(digest).decode(),
        style=_trusted((WEB / "page.css").read_text(encoding="utf-8")),
        drawing=lambda picture: _drawing(picture, figures),
        data_uri=lambda picture: _data_uri(figures / f"{picture.stem}.png"),
    )


@functools.cache
def _template() -> Template:
    """The page's template, compiled once a process."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(WEB),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"parts": parts, "anchor": _anchor}
    return environment.get_template("page.html")


def _shown(value: object) -> object:
    """Text without what would turn or hide the text beside it."""
    from markupsafe import Markup

    plain = isinstance(value, str) and not isinstance(value, Markup)
    return visible(str(value), lines=True) if plain else value


def _trusted(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _drawing(picture: Picture, figures: Path) -> Markup | None:
    """A picture as part of the page, in its colours; None where there is no
    fresh and whole one."""
    svg, png = (figures / f"{picture.stem}.{kind}" for kind in ("svg", "png"))
    if not svg.is_file() or svg.stat().st_size > LARGEST_SVG:
        return None
    if svg.stat().st_mtime < png.stat().st_mtime:  # drawn anew without it
        return None
    _, opened, text = svg.read_text(encoding="utf-8").partition("<svg")
    if not opened or not text.rstrip().endswith("</svg>"):  # a full disk cut it off
        return None
    text = opened + text
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return _trusted(_in_page_colours(_with_own_ids(text, _anchor(picture.stem))))


def _with_own_ids(svg: str, prefix: str) -> str:
    """Ids of drawings meet in one page."""
    svg = re.sub(r'(\sid=")', rf"\g<1>{prefix}-", svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _in_page_colours(svg: str) -> str:
    """Let colours that belong to no datum follow light and dark."""
    for colour, name in PAGE_COLOURS.items():
        changing = f"var(--{name}, {colour})"
        svg = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: {changing}", svg, flags=re.I)
    return svg


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
