import base64
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from matplotlib import rc_context

from experiments.cli import main
from experiments.record.run_dir import read_run
from experiments.report.layout.html import html
from experiments.report.page import compose, write_report
from tests.experiments.conftest import COARSE
from tests.experiments.report.layout.chromium import binary, chromium

DRAWS = True
HOSTILE = "<script>alert(1)</script>\"'&</style><img src=https://example.org/x.png>"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJ"
    "RU5ErkJggg=="
)


def page_of(run):
    return html(compose(run), run.figures)


@pytest.fixture(scope="module")
def drawn_run(drawn):
    """The made-up run with its pictures and pages."""
    return drawn[0]


@pytest.fixture
def changing(drawn_run, tmp_path):
    """A copy of it that a test may change."""
    return read_run(shutil.copytree(drawn_run.path, tmp_path / "made-up"))


class Page(HTMLParser):
    """Every element with its attributes, and the text of cells."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows = [], []
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self._cell).strip())
            self._cell = None

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def hostile(run):
    """The same run with names and texts that would like to be more than text."""
    phases = [
        entry
        | {
            "name": HOSTILE + entry["name"],
            "bpc": {HOSTILE: 2.0, "code": 2.5},
            "best_single": {"teacher": HOSTILE, "bpc": {HOSTILE: 2.1, "code": 2.5}},
        }
        for entry in run.summary["phases"]
    ]
    sample = {"prompt": HOSTILE, "before": HOSTILE, "after": HOSTILE}
    whose = {"plugin": HOSTILE, "distribution": HOSTILE, "version": "1", "digest": ""}
    facts = {"model": HOSTILE, "bpc": {HOSTILE: 1.0}}
    summary = {
        "phases": phases,
        "teachers": {HOSTILE: facts},
        "samples": [sample],
        "versions": {"mtkd": HOSTILE},
        "plugins": {f"router {HOSTILE}": whose},
    }
    event = {"kind": "event", "alarm": "x", "event": HOSTILE, "phase": HOSTILE}
    (run.path / "config.yaml").write_text(json.dumps({HOSTILE: HOSTILE}))
    return replace(run, summary=summary, metrics=[event])


def test_page_and_text_say_the_same(made_up):
    write_report(made_up, draw=False)
    text = (made_up.path / "report.md").read_text()
    page = Page((made_up.path / "report.html").read_text())
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("| ---")
    ]
    assert len(rows) > 6
    assert page.rows == rows


def test_what_users_named_stays_text(made_up):
    page = Page(page_of(hostile(made_up)))
    assert len(page.all("script")) == 1  # our own
    assert page.all("img") == []
    assert sum(HOSTILE in cell for row in page.rows for cell in row) >= 14


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
def test_names_in_drawings_stay_text(made_up):
    run = hostile(made_up)
    with rc_context(COARSE):
        write_report(run)
    assert list(run.figures.glob("*.svg"))
    page = Page((run.path / "report.html").read_text())
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert page.all("svg")


def test_the_page_asks_for_nothing_from_elsewhere(drawn_run):
    text = (drawn_run.path / "report.html").read_text()
    page = Page(text)
    assert page.all("link") == [{"rel": "icon", "href": "data:,"}]
    asked = [
        value
        for _, attrs in page.elements
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href") and value[0] != "#"
    ]
    assert asked and all(value.startswith("data:") for value in asked)
    assert "@import" not in text
    (policy,) = [m for m in page.all("meta") if "http-equiv" in m]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert len(text) < 3_000_000


def test_pictures_are_drawings_where_there_are_and_else_have_a_text(changing):
    (changing.figures / "alignment_t5.png").write_bytes(PIXEL)
    write_report(changing, draw=False)
    page = Page((changing.path / "report.html").read_text())
    assert len(page.all("svg")) == 6
    (image,) = page.all("img")
    assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert image["alt"].endswith("meet a teacher's. Here: t5.")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert sorted(ids) == sorted(set(ids))


def test_a_drawing_that_is_cut_off_or_older_than_its_picture_is_not_shown(changing):
    os.utime(changing.figures / "losses.svg", (1, 1))
    cut = changing.figures / "gates.svg"
    cut.write_text(cut.read_text()[:1000])
    page = Page(page_of(changing))
    assert (len(page.all("svg")), len(page.all("img"))) == (4, 2)


def test_neutral_colours_follow_the_page_and_those_of_data_stay(drawn_run):
    text = (drawn_run.path / "report.html").read_text()
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert "stroke: var(--ink, #000000)" in drawings
    assert "var(--blue, #0072b2)" in drawings
    assert "fill: #1a1a1a" in drawings  # words on the pale cells of coverage
    assert not re.search(r"(fill|stroke): #(000000|ffffff)", drawings)


def test_every_table_has_heads_with_a_scope(made_up):
    page = Page(page_of(made_up))
    assert {head["scope"] for head in page.all("th")} == {"row", "col"}
    assert len(page.all("caption")) == len(page.all("table")) >= 2


def test_alarms_come_first_and_are_told_apart(made_up):
    alarm = {"kind": "event", "alarm": "x", "event": "the keys shrink"}
    text = page_of(replace(made_up, metrics=[alarm]))
    assert '<section id="alarms"' in text
    assert text.index("the keys shrink") < text.index("<table")
    assert 'class="warns"' not in page_of(made_up)


def test_a_run_that_goes_on_and_one_of_an_earlier_version_have_a_page(made_up):
    assert "The run is not finished" in page_of(replace(made_up, summary={}))
    bare = {"phases": [{"name": "dual", "bpc": {"all": 2.0}}]}
    assert "Not compared" in page_of(replace(made_up, summary=bare, metrics=[]))


def test_report_opens_the_page_or_says_where_it_is(made_up, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    page = made_up.path / "report.html"
    words = ["report", str(made_up.path), "--no-figures", "--open"]
    assert main(words) == 0
    assert opened == []
    assert f"no browser here; open {page}" in capsys.readouterr().out
    monkeypatch.setenv("BROWSER", "some")
    assert main(words) == 0
    assert opened == [page.as_uri()]


@pytest.fixture(scope="module")
def tab():
    if not binary():
        assert not os.environ.get("MTKD_REQUIRE_CHROMIUM"), "Chromium is not installed"
        pytest.skip("Chromium is not installed")
    with chromium() as opened:
        yield opened


COLUMN = "[...document.querySelectorAll('tbody')][0].rows"


def first_column(tab):
    return tab.evaluate(f"[...{COLUMN}].map(row => row.cells[0].textContent.trim())")


@pytest.mark.slow
def test_a_browser_opens_it_without_complaint_and_without_network(changing, tab):
    write_report(hostile(changing), draw=False)  # its words beside real drawings
    tab.open((changing.path / "report.html").as_uri())
    asked = [
        event["request"]["url"] for event in tab.named("Network.requestWillBeSent")
    ]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert sum(url.startswith("file") for url in asked) == 1
    assert tab.named("Log.entryAdded") == []
    assert tab.named("Runtime.exceptionThrown") == []
    assert tab.named("Runtime.consoleAPICalled") == []
    assert tab.evaluate("document.querySelectorAll('svg').length") == 6


@pytest.mark.slow
def test_its_tables_sort_by_mouse_and_by_keyboard(made_up, tab):
    write_report(made_up, draw=False)
    tab.size(1200, 900)
    tab.open((made_up.path / "report.html").as_uri())
    phases = ["dual", "multi_basic", "real_multi", "routing", "z_space"]
    assert first_column(tab) == phases
    mean = "thead th:nth-child(5)"  # which falls from phase to phase
    tab.click(f"{mean} button")
    assert tab.evaluate(f"document.querySelector('{mean}').ariaSort") == "ascending"
    assert first_column(tab) == phases[::-1]
    said = tab.evaluate("document.getElementById('said').textContent")
    assert said == "sorted by mean, ascending"
    tab.press("Tab", 9)  # on to the next head
    tab.press("Enter", 13, "\r")
    ce_only = tab.evaluate("document.activeElement.closest('th').ariaSort")
    assert tab.evaluate("document.activeElement.textContent") == "CE only"
    assert ce_only == "ascending"
    tab.press("Enter", 13, "\r")
    assert first_column(tab) == phases
    tab.press("Enter", 13, "\r")
    tab.click("thead th:nth-child(8) button")  # before: falls as well
    assert first_column(tab) == phases[::-1]
    for _ in range(2):
        tab.click("thead th:nth-child(8) button")
    assert first_column(tab) == phases  # as it was


@pytest.mark.slow
def test_it_is_dark_where_that_is_preferred_or_chosen_and_fits_desk_and_phone(
    drawn_run, tab
):
    backgrounds, ink = {}, {}
    for scheme in ("light", "dark"):
        tab.prefers(scheme)
        tab.open((drawn_run.path / "report.html").as_uri())
        style = "getComputedStyle(document.{}).{}"
        backgrounds[scheme] = tab.evaluate(style.format("body", "backgroundColor"))
        ink[scheme] = tab.evaluate(style.format("querySelector('svg')", "fill"))
    assert backgrounds == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 28)"}
    assert ink["light"] != ink["dark"]
    picture = '<div class="print"><img></div>'  # one that has no drawing
    tab.evaluate(f"document.body.insertAdjacentHTML('beforeend', '{picture}')")
    turned = "getComputedStyle(document.querySelector('.print img')).filter"
    assert tab.evaluate(turned) == "invert(1) hue-rotate(180deg)"
    tab.click("#theme")  # as the system → light
    now = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert now == backgrounds["light"] and tab.evaluate(turned) == "none"
    tab.size(900, 800)
    links = "document.querySelector('nav ul')"
    assert tab.evaluate(f"{links}.scrollWidth <= {links}.clientWidth")  # none is hidden
    tab.evaluate("document.documentElement.style.scrollBehavior = 'auto'")  # at once
    tab.click("nav li:nth-child(2) a")
    below = (
        "document.querySelector('main section:nth-of-type(2) h2').{}().top"
        " - document.querySelector('nav').{}().bottom"
    ).replace("{}", "getBoundingClientRect")
    assert 0 <= tab.evaluate(below) < 40  # its title is not under the links
    tab.size(400, 800, phone=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == 400
