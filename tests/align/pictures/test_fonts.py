"""Fonts are chosen by what they cover; what nothing covers is told, once."""

import logging
from dataclasses import replace

import pytest
import torch
from matplotlib import font_manager

from align.pictures import fonts
from align.pictures.fonts import BASE, fonts_for
from align.pictures.visualize import visualize_alignment

pytestmark = pytest.mark.edges


def write_font(path, family, characters, weight=400):
    """A font whose every character is a square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    corners = [(0, 0), (0, 800), (800, 800), (800, 0)]
    pen.moveTo(corners[0])
    for corner in corners[1:]:
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"u{ord(c):04X}" for c in characters)]
    build = FontBuilder(1000, isTTF=True)
    build.setupGlyphOrder(names)
    build.setupCharacterMap(dict(zip(map(ord, characters), names[1:], strict=True)))
    build.setupGlyf(dict.fromkeys(names, pen.glyph()))
    build.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    build.setupHorizontalHeader(ascent=900, descent=-100)
    build.setupNameTable({"familyName": family, "styleName": "Regular"})
    build.setupOS2(usWeightClass=weight)
    build.setupPost()
    build.save(path)
    return str(path)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with matplotlib's own fonts, and those that a test installs."""
    manager = font_manager.fontManager
    own = [replace(entry) for entry in manager.ttflist if "mpl-data" in entry.fname]
    files = []
    monkeypatch.setattr(manager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(files))

    def forget():
        fonts._take_up_new_fonts.cache_clear()
        fonts._tell.cache_clear()
        manager._findfont_cached.cache_clear()

    def install(family, characters, **weight):
        path = tmp_path / f"{len(files)}.ttf"
        files.append(write_font(path, family, characters, **weight))
        forget()

    forget()
    yield install
    monkeypatch.undo()
    forget()


def test_what_the_first_font_has_needs_no_other(machine):
    machine("SimHei", "ab深")
    assert fonts_for("naïve Ġé ␣ →") == fonts.Fonts((BASE,), frozenset())


def test_a_known_font_is_taken_before_others_and_others_by_what_they_cover(machine):
    machine("Somebody's Mincho", "深度学习カ")
    machine("A little", "深한")
    assert fonts_for("深度").families == (BASE, "Somebody's Mincho")
    found = fonts_for("深度カ한🤖")
    assert found.families == (BASE, "Somebody's Mincho", "A little")
    assert found.missing == {"🤖"}
    machine("SimHei", "深度学习")
    assert fonts_for("深度").families == (BASE, "SimHei")
    assert fonts_for("深カ").families == (BASE, "SimHei", "Somebody's Mincho")


def test_fonts_that_show_everything_as_a_box_are_no_help(machine):
    machine("LastResort", "深度")
    assert fonts_for("深").missing == {"深"}


def labels(figure):
    axes = figure.axes[0]
    texts = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    return [text.get_text() for text in texts]


@pytest.mark.filterwarnings("error")
def test_a_picture_shows_what_there_is_a_font_for(machine, tmp_path, caplog):
    machine("Only Bold", "深度", weight=700)
    with caplog.at_level(logging.WARNING):
        figure = visualize_alignment(
            torch.eye(2), ["深", "b"], ["深度", "b"], tmp_path / "a.png", title="深"
        )
    assert labels(figure) == ["深度", "b", "深", "b"]
    assert figure.axes[0].get_xticklabels()[0].get_fontfamily() == [BASE, "Only Bold"]
    assert caplog.records == []


@pytest.mark.filterwarnings("error")
def test_without_a_font_code_points_stand_there_and_one_line_says_so(
    machine, tmp_path, caplog
):
    with caplog.at_level(logging.WARNING):
        for name in ("a.png", "b.png"):
            figure = visualize_alignment(
                torch.eye(2), ["深", "b"], ["深度", "b$"], tmp_path / name
            )
    assert labels(figure) == [r"\u6df1\u5ea6", r"b\$", r"\u6df1", "b"]
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("no font on this machine shows 度 深: pictures give code")
    assert "fonts-noto-cjk or fonts-wqy-zenhei (apt)" in said
