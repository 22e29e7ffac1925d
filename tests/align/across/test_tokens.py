"""Tokens of a translation, fed by those of its source."""

import pickle
from types import SimpleNamespace

import pytest
import torch

from align.across.links import links_of_line, word_spans
from align.across.tokens import SINKS, across, aligned, are_beside
from align.text.fragment import ends
from align.text.prompted import Beside, Prompted, read_by_teachers
from align.tokens.batch import TokenBatch
from align.tokens.cut import piece_of
from student.attention_sinks import without_sinks

SOURCE, TARGET = "the old dog", "alter Hund"
LINKS = links_of_line("1-0 0-1 2-1", SOURCE, TARGET, "x, line 1")


def batch(text, spans):
    """Tokens by hand, the first without text."""
    ids = torch.arange(len(spans))[None]
    return TokenBatch(ids, ids >= 0, torch.tensor([spans]), (text,))


OURS = [[0, 0], [0, 3], [3, 5], [5, 10]]  # alt|er| Hund
THEIRS = [[0, 0], [0, 3], [3, 7], [7, 9], [9, 11]]  # the| old| d|og


def test_by_words_a_token_is_fed_by_the_characters_of_linked_words():
    alignment = across(
        batch(Beside(TARGET, SOURCE, LINKS), OURS), batch(SOURCE, THEIRS)
    )
    expected = torch.tensor(
        [
            [0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0],  # alt: old
            [0, 0, 1, 0, 0],
            [0, 3, 0, 1, 2],  # Hund: the, and both parts of dog (the blank is no word)
        ],
        dtype=torch.float32,
    )
    expected[3] /= 6
    torch.testing.assert_close(alignment.dense()[0], expected)
    unlinked = Beside(TARGET, SOURCE, LINKS[:1])
    fed = across(batch(unlinked, OURS), batch(SOURCE, THEIRS)).covered
    assert fed.tolist() == [[False, True, True, False]]


def test_by_sentence_every_token_is_fed_by_the_mean_of_all():
    text = Beside(TARGET, SOURCE)
    weights = aligned(None, batch(text, OURS), batch(SOURCE, THEIRS)).dense()[0]
    assert weights[0].tolist() == [0, 0, 0, 0, 0]
    assert weights[1:].tolist() == [[0, 0.25, 0.25, 0.25, 0.25]] * 3


def test_by_sentence_a_first_word_where_attention_gathers_feeds_nobody():
    """Else a teacher without a token of beginning would be compared nowhere."""
    ours, theirs = batch(Beside(TARGET, SOURCE), OURS), batch(SOURCE, THEIRS[1:])
    alignment = across(ours, theirs)
    expected = torch.tensor([[0, 1, 1, 1]] * 3) / 3
    torch.testing.assert_close(alignment.dense()[0, 1:], expected)
    view = SimpleNamespace(alignment=alignment, origin=None)
    assert without_sinks(ours, [view], SINKS)[0, :, 0].tolist() == [False] + [True] * 3
    alone = across(ours, batch(SOURCE, THEIRS[1:2]))
    assert not alone.covered.any()


def test_an_aligner_is_asked_about_texts_that_both_read_alone():
    same = batch(TARGET, OURS)
    assert aligned(lambda s, t: (s, t), same, same) == (same, same)
    with pytest.raises(ValueError, match=r"some texts of a batch.*data\.train=\[\]"):
        are_beside([TARGET, Beside(TARGET, SOURCE)])


def test_a_translation_is_text_that_knows_its_source():
    text = Beside(TARGET, SOURCE, LINKS)
    assert text == TARGET and ends(text) and LINKS[0] == (0, 5, 4, 7)
    front = piece_of(text, (0, 7))
    assert front == "alter H" and front.other == SOURCE and not ends(front)
    assert front.links == tuple(LINKS[:1])  # the dog is cut
    again = pickle.loads(pickle.dumps(front))
    assert again.links == front.links and again.goes_on and again.other == SOURCE
    prompted = Prompted("a", " b")
    assert read_by_teachers([text, prompted, "c"]) == [SOURCE, prompted, "c"]


def test_words_are_what_stands_between_blanks():
    assert word_spans(" a\u3000bc,\n") == [(1, 2), (3, 6)]
    assert links_of_line("", SOURCE, TARGET, "x") == []
    twice = links_of_line("1-0 1-0 0-1 2-1", SOURCE, TARGET, "x")
    assert twice == LINKS  # none counts twice


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0-0 1:1", r"x, line 3: '1:1' is no link; .* such as 0-0 1-2"),
        ("3-0", r"'3-0' links word 3 of the source, which has 3 words"),
        ("0-2", r"'0-2' links word 2 of the target, which has 2 words"),
    ],
)
def test_a_link_of_words_that_are_not_there_is_refused(line, message):
    with pytest.raises(ValueError, match=message):
        links_of_line(line, SOURCE, TARGET, "x, line 3")
