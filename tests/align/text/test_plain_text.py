"""Plain text is cut into the same documents whatever blocks it comes in, in work and
memory that follow the file's length alone."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.text import plain_text
from align.text.fragment import ends
from align.text.plain_text import documents

GAP = re.compile(r"\r?\n[^\S\r\n]*\r?\n\s*")


def at_limit(text, start, limit):
    return limit


def defined(text, pack, most):
    """What documents() is to give, from the whole text, character by character."""
    begin, searched, out = 0, 0, []
    while True:
        gaps = [
            match
            for match in (GAP.match(text, i) for i in range(searched, len(text)))
            if match and GAP.match(text[: begin + most], match.start())
        ]
        if gaps:
            gap = gaps[0]
            if gap.end() - begin >= pack:
                out.append(text[begin : gap.start()])
                begin = gap.end()
            searched = gap.end()
        elif len(text) - begin > most:
            ends = [
                i + 1
                for i in range(begin, begin + most)
                if text[i] == "\n"
                or (text[i] == "\r" and i + 1 < begin + most and text[i + 1] != "\n")
            ]
            cut = ends[-1] if ends else begin + most
            out.append(text[begin:cut])
            begin = searched = cut
        else:
            return [*out, text[begin:]] if begin < len(text) else out


def blocks_of(text, sizes):
    at = 0
    for size in sizes:
        if at < len(text):
            yield text[at : at + size]
        at += size
    if at < len(text):
        yield text[at:]


layouts = st.lists(
    st.sampled_from(
        ["a", "bc ", "深", "\n", "\n\n", "\r\n", "\r", " ", "\t", "\u2028"]
    ),
    max_size=60,
).map("".join)


@given(
    layouts,
    st.lists(st.integers(1, 9), max_size=30),
    st.integers(1, 12),
    st.integers(0, 20),
)
@settings(max_examples=300)
def test_any_layout_in_any_blocks_gives_the_documents_as_defined(
    text, sizes, pack, more
):
    most = pack + more
    found = list(documents(blocks_of(text, sizes), at_limit, pack, most))
    assert found == defined(text, pack, most)
    assert all(len(document) <= most for document in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def before(text):
    """The documents of the rule that knew no longest one."""
    begin, searched, out = 0, 0, []
    while gap := GAP.search(text, searched):
        searched = gap.end()
        if gap.end() - begin >= 2000:
            out.append(text[begin : gap.start()])
            begin = gap.end()
    return [document for document in [*out, text[begin:]] if document]


def test_files_with_blank_lines_are_cut_at_them_alone():
    paragraph = "word " * 300 + "\n"
    text = "".join(f"{i} {paragraph}" + "\n" * (i % 3) for i in range(90))
    found = list(documents([text], at_limit))
    assert found == before(text)
    assert len(found) > 20 and max(map(len, found)) > 2500


class Counted:
    """The pattern, counting the characters that it is given to search."""

    def __init__(self, pattern):
        self.pattern, self.searched, self.longest = pattern, 0, 0

    def search(self, text, at, limit):
        match = self.pattern.search(text, at, limit)
        end = min(limit, len(text)) if match is None else match.end()
        self.searched += end - at
        self.longest = max(self.longest, len(text))
        return match

    def match(self, text, at):
        match = self.pattern.match(text, at)
        self.searched += match.end() - match.start()
        return match


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["x" * 99 + "\n", "x" * 99 + "\r", "x" * 100, " " * 100, "\n" + " " * 99,
     "x" * 98 + "\n\n", "\n" * 100, "x\n\n" + " " * 97],
    ids=["lines", "carriage returns", "one line", "blanks", "blank lines",
         "paragraphs", "line feeds", "much space"],
)  # fmt: skip
def test_work_and_memory_follow_the_length_in_every_layout(piece, monkeypatch):
    size, block = 4_000_000, 100_000
    counted = Counted(plain_text._BLANK_LINE)
    monkeypatch.setattr(plain_text, "_BLANK_LINE", counted)
    whole = piece * (size // len(piece))
    blocks = (whole[at : at + block] for at in range(0, size, block))
    found = list(documents(blocks, at_limit))
    most = plain_text.MOST_CHARS
    assert counted.searched <= (2 + most / block) * size
    assert counted.longest <= most + block + plain_text.PACK_CHARS
    assert max(map(len, found), default=0) <= most
    if not piece.isspace():
        assert len("".join(found).replace(" ", "")) >= 0.9 * len(whole.replace(" ", ""))
        assert len(found) >= size / most


def test_one_document_a_line_ends_at_lines():
    lines = [f"{number}: " + "word " * 100 + "\n" for number in range(2000)]
    found = list(documents(["".join(lines)], at_limit))
    assert "".join(found) == "".join(lines)
    assert len(found) > 5 and all(document.endswith("\n") for document in found)


def test_a_document_that_is_cut_inside_a_line_goes_on():
    line, lines = "x" * 250, "one line\n" * 40
    (first, second, third) = documents([line], at_limit, pack=20, most=100)
    assert (len(first), len(second), len(third)) == (100, 100, 50)
    assert [ends(part) for part in (first, second, third)] == [False, False, True]
    assert all(map(ends, documents([lines], at_limit, pack=20, most=100)))
