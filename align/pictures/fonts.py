"""Fonts that show a picture's characters, among whatever fonts a machine has.

matplotlib brings DejaVu Sans, which has no Chinese, Japanese or Korean; what else there
is differs between machines, so that fonts are chosen by the characters they cover.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from align.foreign.quote import in_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = "DejaVu Sans"
"""What matplotlib always has; asked first."""

PREFERRED = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
    "Noto Emoji",
    "Symbola",
)
"""Asked next, in this order; then any other font, most characters first."""

INSTALL = (
    "fonts-noto-cjk or fonts-wqy-zenhei (apt), google-noto-sans-cjk-fonts (dnf), or "
    "any such font in ~/.local/share/fonts"
)
"""What to install where Chinese, Japanese or Korean cannot be shown."""

_MOST = 6
"""Families that one picture uses."""

_ANOTHER = ("LastResort", "Last Resort", "Blank")
"""In the names of fonts that show every character as a box, or as nothing."""


@dataclass(frozen=True, slots=True)
class Fonts:
    """Fonts for some text."""

    families: tuple[str, ...]
    """Names for matplotlib, which falls back from each to the next."""
    missing: frozenset[str]
    """Characters that none of this machine's fonts has."""

    def shown(self, text: str) -> str:
        """As :func:`~align.foreign.quote.in_picture`, and what no font has by its code
        point, ``\\\\u6df1``."""
        return "".join(
            f"\\u{ord(char):04x}" if char in self.missing else char
            for char in in_picture(text)
        )


def fonts_for(text: str) -> Fonts:
    """Choose fonts by the characters they cover.

    Args:
        text: all that is to be shown.
    """
    characters = {char for char in text if char.isprintable()}
    families, uncovered = [BASE], _uncovered(characters, BASE)
    if uncovered:
        _take_up_new_fonts()
        listed = _families()
        for family in [name for name in PREFERRED if name in listed]:
            rest = _uncovered(uncovered, family)
            if len(rest) < len(uncovered):
                families, uncovered = [*families, family], rest
    while uncovered and len(families) < _MOST:
        left_uncovered = {
            n: _uncovered(uncovered, n) for n in _families() if n not in families
        }
        best = min(
            left_uncovered,
            key=lambda name: (len(left_uncovered[name]), name),
            default=BASE,
        )
        if best == BASE or len(left_uncovered[best]) == len(uncovered):
            break
        families, uncovered = [*families, best], left_uncovered[best]
    for family in families[1:]:
        _give_ordinary_weight(family)
    return Fonts(tuple(families), frozenset(uncovered))


def legible(figure: Figure) -> Figure:
    """Give all text of a figure fonts that show it, and code points for what none does.

    No text is taken for a formula, nor may it move or turn what stands beside it.

    What is missing is logged, once for the same characters.

    Args:
        figure: as drawn, before it is saved.
    """
    from matplotlib.text import Text

    texts: list[Any] = figure.findobj(Text)
    fonts = fonts_for("".join(text.get_text() for text in texts))
    for text in texts:
        if fonts.families != (BASE,):
            text.set_fontfamily(list(fonts.families))
        text.set_text(fonts.shown(text.get_text()))
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            _relabel(axis, fonts)
    if fonts.missing:
        _tell("".join(sorted(fonts.missing)))
    return figure


def _relabel(axis: Any, fonts: Fonts) -> None:
    """Change labels of ticks where they are kept: what is drawn is made from them."""
    from matplotlib.ticker import FixedLocator

    if isinstance(axis.get_major_locator(), FixedLocator):
        labels = [text.get_text() for text in axis.get_ticklabels()]
        drawable = [fonts.shown(label) for label in labels]
        if drawable != labels:
            axis.set_ticklabels(drawable)


def sentence_on(missing: Iterable[str]) -> str:
    """What a user should know of characters without a font."""
    chars = sorted(missing)
    few = " ".join(chars[:8]) + (" …" if len(chars) > 8 else "")
    return (
        f"no font on this machine shows {few}: pictures give code points instead. "
        f"Install one and draw again; for Chinese, Japanese and Korean: {INSTALL}"
    )


@functools.lru_cache
def _tell(missing: str) -> None:
    logging.getLogger(__name__).warning("%s", sentence_on(missing))


def _families() -> dict[str, str]:
    """Family -> the file of its most ordinary face."""
    from matplotlib import font_manager

    entries = [
        entry
        for entry in font_manager.fontManager.ttflist
        if not any(word in entry.name for word in _ANOTHER)
    ]

    def plainness(entry: Any) -> tuple[bool, int, str]:
        weight = entry.weight if isinstance(entry.weight, int) else 400
        return entry.style == "normal", -abs(weight - 400), entry.fname

    return {entry.name: entry.fname for entry in sorted(entries, key=plainness)}


def _give_ordinary_weight(family: str) -> None:
    """List a family that has only other weights as of weight 400 too, or matplotlib
    logs a warning whenever it is used."""
    from matplotlib import font_manager

    listed = font_manager.fontManager.ttflist
    entries = [entry for entry in listed if entry.name == family]
    if not any(entry.weight == 400 for entry in entries):
        plain = next(entry for entry in entries if entry.fname == _families()[family])
        listed.append(replace(plain, weight=400))


def _uncovered(chars: set[str], family: str) -> set[str]:
    file = _families().get(family)
    covered = _characters(file) if file is not None else frozenset()
    return {char for char in chars if ord(char) not in covered}


@functools.cache
def _characters(file: str) -> frozenset[int]:
    """Code points of a font; none of one that cannot be drawn, as bitmaps of emoji."""
    from matplotlib import ft2font

    try:
        font = ft2font.FT2Font(file)
    except (OSError, RuntimeError):
        return frozenset()
    if not getattr(font, "scalable", True):
        return frozenset()
    return frozenset(font.get_charmap())


@functools.lru_cache
def _take_up_new_fonts() -> None:
    """Tell matplotlib of fonts installed since it last wrote its list of them."""
    from matplotlib import font_manager

    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for file in font_manager.findSystemFonts():
        if file not in listed:
            try:
                font_manager.fontManager.addfont(file)
            except (OSError, RuntimeError):  # no font, or none that can be drawn
                continue
