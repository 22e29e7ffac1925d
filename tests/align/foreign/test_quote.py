"""Names mean themselves wherever they are written."""

import io

import pytest

from align.foreign.quote import (
    UNSEEN,
    code_in_markdown,
    in_markdown,
    in_picture,
    put,
    say,
    visible,
)
from align.pictures.fonts import legible

NAMES = [
    "$a_$",
    r"a\$b$\frac{",
    "<script>alert(1)</script>",
    "[red]x[/red]",
    "[x](http://example.org)",
    "a|b",
    "`code`",
    "**bold** _it_ ~~no~~",
    "&lt;",
    "esc\x1b[2Jape",
    "turn\u202eed",
    "two\nlines",
    ":smile:",
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_is_visible_in_one_line(name):
    shown = visible(name)
    assert shown.isprintable()
    assert shown == name or not name.isprintable()


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_is_drawn_as_it_is(name):
    """The picture of a name has the text that the name shows, and is drawn at all."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.set_title(name)
    axes.set_xticks([0, 1], [name, "b"])
    axes.set_yticks([])  # numbers, half of what drawing takes
    axes.plot([0, 1], [1, 2], label=name)
    axes.legend()
    drawing = io.StringIO()
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):
        legible(figure).savefig(drawing, format="svg")
    assert in_picture(name).count("$") == in_picture(name).count(r"\$")
    if name == "$a_$":
        assert drawing.getvalue().count(">$a_$<") == 3


def test_markdown_keeps_words_and_escapes_what_it_would_take_for_more():
    assert in_markdown("multi_basic: -20.0% [a, b]") == "multi_basic: -20.0% [a, b]"
    assert in_markdown("<b> *x* `y` $z$") == r"\<b> \*x\* \`y\` \$z\$"
    assert in_markdown("[x](y)") == r"[x\](y)"
    assert in_markdown("_it_ &lt; a_b") == r"\_it\_ \&lt; a_b"
    assert code_in_markdown("a") == "`a`"
    assert code_in_markdown("a`b") == "``a`b``"
    assert code_in_markdown("`a") == "`` `a ``"


def test_what_is_said_keeps_its_lines_and_nothing_that_moves_a_cursor(capsys):
    say("first\nsecond \x1b[2J\u202e")
    put("a\tb\x07")
    streams = capsys.readouterr()
    assert streams.err == f"first\nsecond {UNSEEN}[2J{UNSEEN}\n"
    assert streams.out == f"a\tb{UNSEEN}\n"
